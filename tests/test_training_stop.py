"Runs that a rule ends early, and the best checkpoint: neither changes what is trained, whatever is killed."
import signal
from pathlib import Path

import numpy as np
import pytest
from test_faults import TINY, check_checkpoints, check_same, lab, run_of, terminate_in, uninterrupted # noqa: F401
from test_processes import PLAIN, check_close, start

from grok_nb.training import best_step, headline_curve
from grok_nb.transitions import arrived

OPTIONS = TINY | dict(evaluate_every=5, checkpoints=4, checkpoint_on_change=.03)
RULE = "\ndef late(curve): return curve.index[-1] >= {}\n"
UNTIL = RULE + "training.train(make(options), root, until=late)"


def until(lab, root, options, step, status=0, setup=""):
    "Train until an evaluation at this step or later; the run."
    job = lab.start(setup + UNTIL.format(step), root=str(root), options=options)
    assert job.wait() == status, job.errors
    return run_of(root, options)


def test_a_rule_ends_a_run_and_changes_nothing(lab, runs_root, uninterrupted):
    run = until(lab, runs_root, OPTIONS, 33)
    assert run.stopped == dict(step=35, rule="late") and not run.finished
    assert run.steps[-1] == run.resumable.step == run.records()[-1]["step"] == 35
    check_checkpoints(run, uninterrupted(OPTIONS))
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*")}
    until(lab, runs_root, OPTIONS, 33) # again: at once
    until(lab, runs_root, OPTIONS, 20) # a rule that held before, too
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*")} == before
    until(lab, runs_root, OPTIONS, 50) # another rule goes on
    assert run.stopped == dict(step=50, rule="late")
    lab.finish(runs_root, OPTIONS)
    assert run.stopped is None and not (run.path/"stopped.json").exists()
    check_same(run, uninterrupted(OPTIONS), [35, 50])
    assert [s["step"] for s in run.sessions()] == [0, 35, 50]
    until(lab, runs_root, OPTIONS, 20)
    assert run.finished and run.stopped is None


def test_a_rule_that_holds_at_the_last_step_is_not_needed(lab, runs_root, uninterrupted):
    run = until(lab, runs_root, OPTIONS, 120)
    assert run.stopped is None
    check_same(run, uninterrupted(OPTIONS))


@pytest.mark.promise("kills")
@pytest.mark.parametrize("moment", ["old(*args)\n    if 'stopped' in args[1]: os.kill(os.getpid(), signal.SIGKILL)",
                                    "if 'stopped' in args[1]: os.kill(os.getpid(), signal.SIGKILL)\n    old(*args)"], ids=["after", "before"])
def test_killed_at_the_note(lab, runs_root, moment):
    "The note is written before the checkpoint, and counts only with it."
    setup = f"\ndef write(*args):\n    {moment}\nold, runs.Run.write = runs.Run.write, write"
    run = until(lab, runs_root, OPTIONS, 33, -signal.SIGKILL, setup)
    assert run.stopped is None and max(run.steps) < 35
    until(lab, runs_root, OPTIONS, 33)
    assert run.stopped == dict(step=35, rule="late")


def test_a_rule_ends_several_processes(lab, runs_root, uninterrupted):
    "The first process asks the rule, all of them stop, and one goes on."
    setup = RULE.format(33) + "\nold = training.train\ntraining.train = lambda *args, **more: old(*args, **more, until=late if rank == 0 else lambda curve: False)"
    jobs = start(lab, runs_root, PLAIN, setup=setup)
    assert [j.wait() for j in jobs] == [0, 0], jobs[0].errors
    run = run_of(runs_root, PLAIN)
    assert run.stopped == dict(step=45, rule="late") and run.steps[-1] == 45
    check_close(lab.finish(runs_root, PLAIN), uninterrupted(PLAIN))


BEST = "\ntraining.train(make(options), root, keep_best=True)"
KNOWN = """
import slow_study
def known(model, context): return [study.headline | dict(value=1 - abs(context.step - 63)/100)]
slow_study.study.probes = lambda config: dict(accuracy=known)
""" # a curve that rises to step 63 and falls, whatever the weights are


def known_reference(lab, root, options):
    "A run with that curve that nothing happened to, every optimiser state kept."
    return lab.finish(root/"reference", options | dict(keep_states=1000), setup=KNOWN)


def best(lab, root, options, status=0, setup="", **names):
    job = lab.start(KNOWN + setup + BEST, root=str(root), options=options, **names)
    assert job.wait() == status, job.errors
    return run_of(root, options)


def passing(run): return [c.step for c in run.checkpoints if c.manifest.get("passing")]


def check_best(run, reference):
    "The planned and triggered checkpoints of the reference, and the best one so far."
    curve = headline_curve(run)
    peak = best_step(curve[curve.index <= max(run.steps)], run.study)
    assert peak in run.steps and set(passing(run)) <= {peak} and set(run.steps) == {*reference.steps, peak}
    check_checkpoints(run, reference)


def test_the_best_checkpoint_is_kept(lab, runs_root):
    options = TINY | dict(evaluate_every=7, checkpoints=2) # planned: 0, 60, 120
    reference = known_reference(lab, runs_root, options)
    run = best(lab, runs_root/"whole", options)
    assert run.finished and [r["rows"] for r in run.records()] == [r["rows"] for r in reference.records()]
    check_best(run, reference)
    assert run.steps == [0, 60, 63, 120] and passing(run) == [63] and [c.step for c in run.checkpoints if c.has_state][-1] == 120
    stopped = best(lab, runs_root/"stopped", options, 143, terminate_in(25))
    assert max(stopped.steps) == 26 and not stopped.at(26).manifest.get("passing")
    best(lab, runs_root/"stopped", options)
    assert set(stopped.steps) == {*run.steps, 26} and passing(stopped) == passing(run)
    at_peak, = passing(run)
    assert {p.name: f["sha256"] for p, f in _files(run, at_peak)} == {p.name: f["sha256"] for p, f in _files(stopped, at_peak)}


def _files(run, step):
    return [(Path(n), f) for n, f in run.at(step).manifest["files"].items() if n != "training_state.json"]


@pytest.mark.promise("kills")
def test_killed_while_the_best_is_replaced(lab, runs_root):
    "kill -9 between the commit of a better checkpoint and the removal of the one before, and in the middle of the removal."
    options = TINY | dict(evaluate_every=7, checkpoints=2)
    reference, whole = known_reference(lab, runs_root, options), best(lab, runs_root/"whole", options)
    for name, setup in dict(
            commit="\ndef forget(run, best):\n    if best and run.steps[-2:-1] != [0]: os.kill(os.getpid(), signal.SIGKILL)\n    old(run, best)"
                   "\nold, training.forget_worse = training.forget_worse, forget",
            removal="\ndef remove(path):\n    os.replace(path, path.with_name(f'.{path.name}.deleted'))\n    os.kill(os.getpid(), signal.SIGKILL)"
                    "\ntraining.remove_folder = remove").items():
        run = best(lab, runs_root/name, options, -signal.SIGKILL, setup)
        check_checkpoints(run, reference)
        assert run.resumable.step == max(run.steps)
        best(lab, runs_root/name, options)
        assert run.steps == whole.steps and passing(run) == passing(whole)
        assert [r["rows"] for r in run.records()] == [r["rows"] for r in whole.records()]
        assert not [p for p in (run.path/"checkpoints").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("n", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_few_false_alarms_though_asked_after_each_evaluation(n):
    rng, curves = np.random.default_rng(0), []
    for rho in (0, .8):
        noise = rng.standard_normal((n, 40))
        noise[:, 1:] *= np.sqrt(1 - rho**2)
        for t in range(1, 40): noise[:, t] += rho * noise[:, t - 1]
        curves += list(noise)
    asked = [any(arrived((np.arange(n), y[:n])) for n in range(1, 41)) for y in curves]
    assert np.mean(asked) <= .05
    assert arrived((np.arange(40), np.where(np.arange(40) < 15, 0, 5) + curves[0]))


@pytest.mark.slow
def test_a_compiled_model_is_noted(lab, runs_root, uninterrupted):
    "accelerate's own switch changes rounding at most, may be left out when a run goes on, and each session says what it was."
    run = until(lab, runs_root, OPTIONS, 33, setup="\nimport os\nos.environ['ACCELERATE_DYNAMO_BACKEND'] = 'aot_eager'")
    lab.finish(runs_root, OPTIONS)
    assert [s["compiled"] for s in run.sessions()] == ["aot_eager", "no"] and all("card" not in s for s in run.sessions())
    check_close(run, uninterrupted(OPTIONS))
