"Several processes train one run: the losses of one process, one writer, and the same end whatever happens to one of them."
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PATIENCE, wait_for
from test_faults import TINY, WEIGHTS, argv, check_same, hold, lab, one_line, run_of # noqa: F401
from test_faults import terminate_in, uninterrupted # noqa: F401

from grok_nb.files import is_intact
from grok_nb.modular.study import study
from grok_nb.runs import Run
from grok_nb.training import split, train

PLAIN = TINY | dict(attention_dropout=0, optimizer="adamw") # where the number of processes changes rounding only


def start(lab, root, options, n=2, setup="", **names):
    "The processes of one job, as a launcher starts them."
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    place = "os.environ.update(RANK='{0}', LOCAL_RANK='{0}', WORLD_SIZE='{1}', LOCAL_WORLD_SIZE='{1}', MASTER_ADDR='127.0.0.1', MASTER_PORT='{2}')"
    return [lab.command(root, options, place.format(rank, n, port) + f"\nrank = {rank}" + setup, **names) for rank in range(n)]


def finish(lab, root, options, n=2, **names):
    "Train to the end with n processes; the run."
    jobs = start(lab, root, options, n, **names)
    assert [j.wait() for j in jobs] == [0] * n, [j.errors for j in jobs]
    return run_of(root, options)


def values(run): return {(r["step"], i): row for r in run.records() for i, row in enumerate(r["rows"])}


def losses(run): return run.metrics().query("probe == 'train'").value.to_numpy()


def check_close(run, reference):
    "The same curves and weights, up to rounding, which training carries on; where answers were near each other, some are others."
    from safetensors.numpy import load_file
    assert run.finished and set(reference.steps) <= set(run.steps)
    a, b = values(run), values(reference)
    assert a.keys() == b.keys()
    sequences = {(row["set"], row["queries"]): row["value"] for row in b.values() if row.get("metric") == "count"}
    for at, row in b.items():
        share = row.get("metric") == "accuracy"
        near = 3.5/sequences[row["set"], row["queries"]] if share else 5e-3 + 1e-2*abs(row["value"])
        assert abs(a[at]["value"] - row["value"]) < near, (at, row, a[at])
    a, b = (load_file(r.at(r.config.steps).path/WEIGHTS) for r in (run, reference))
    for name in b: np.testing.assert_allclose(a[name], b[name], atol=1e-2)


def test_one_to_two_and_back(lab, runs_root, uninterrupted):
    "A run goes on with another number of processes: its curves and weights are those of one process, up to rounding."
    reference = uninterrupted(PLAIN)
    for before, after in ((1, 2), (2, 1)):
        root = runs_root/f"{before}{after}"
        assert [j.wait() for j in start(lab, root, PLAIN, before, terminate_in(43))] == [143] * before
        run = run_of(root, PLAIN)
        stop = max(run.steps)
        assert run.state == "interrupted" and run.resumable.step == stop == (44 if before == 1 else 45) # where the processes meet
        check_close(finish(lab, root, PLAIN, after), reference)
        assert [(s["step"], s["processes"]) for s in run.sessions()] == [(0, before), (stop, after)]


def test_the_same_number_gives_the_same_bits(lab, runs_root):
    "Two processes, with dropout: stopped by a signal to the second one alone, and not stopped."
    options = TINY | dict(evaluate_every=7, checkpoints=5)
    whole = finish(lab, runs_root/"whole", options | dict(keep_states=1000))
    jobs = start(lab, runs_root/"stopped", options, setup="\nif rank == 1:" + terminate_in(50).replace("\n", "\n    "))
    assert [j.wait() for j in jobs] == [143, 143], [j.errors for j in jobs]
    run = run_of(runs_root/"stopped", options)
    assert run.state == "interrupted" and run.steps[-1] == 56
    check_same(finish(lab, runs_root/"stopped", options), whole, [56])


@pytest.mark.parametrize("rank", [0, 1])
def test_ctrl_c_to_one_process(lab, runs_root, hold, rank):
    jobs = start(lab, runs_root, PLAIN, slow=.02, hold=hold)
    wait_for(lambda: list(runs_root.glob("*/checkpoints/step-00000020/MANIFEST.json")), "step 20")
    jobs[rank].kill(signal.SIGINT)
    hold.unlink() # the other process has got no signal that would let it go on
    assert [j.wait() for j in jobs] == [130, 130]
    run = run_of(runs_root, PLAIN)
    assert one_line(jobs[0].errors) and f"stopped at step {max(run.steps)} of 120; run it again to go on" in jobs[0].errors
    assert not jobs[1].errors and not jobs[1].printed and len(jobs[0].printed.splitlines()) == 1
    assert run.state == "interrupted" and run.resumable.step == max(run.steps)


@pytest.mark.promise("kills")
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_process(lab, runs_root, uninterrupted, hold, rank):
    "kill -9 to one: the other ends, the last checkpoint is whole, one process goes on."
    jobs = start(lab, runs_root, PLAIN, slow=.02, hold=hold)
    wait_for(lambda: list(runs_root.glob("*/checkpoints/step-00000030/MANIFEST.json")), "step 30")
    jobs[rank].kill()
    hold.unlink()
    assert jobs[1 - rank].wait() == 1 and jobs[rank].wait() == -signal.SIGKILL
    if rank == 1: assert one_line(jobs[0].errors) and "another process of this job ended; the last checkpoint is step" in jobs[0].errors, jobs[0].errors
    run = run_of(runs_root, PLAIN)
    assert run.state == "interrupted" and run.resumable.step == max(run.steps) >= 30
    assert all(is_intact(c.path, deep=True) for c in run.checkpoints)
    check_close(lab.finish(runs_root, PLAIN), uninterrupted(PLAIN))


def test_rows_that_cannot_be_shared_out(lab, runs_root):
    for wrong in (dict(batch_size=15), dict(batch_size=1), dict(batch_size=6, accumulation=4)):
        jobs = start(lab, runs_root, PLAIN | wrong)
        assert [j.wait() for j in jobs] == [2, 2]
        assert one_line(jobs[0].errors) and f"batch_size = {wrong['batch_size']}: must be a multiple of 2, the number of processes" in jobs[0].errors
        assert not jobs[1].errors and not list(runs_root.iterdir())


def test_divergence_in_several_processes(lab, runs_root):
    jobs = start(lab, runs_root, PLAIN | dict(lr=10, weight_decay=100, schedule="constant", warmup_steps=0))
    assert [j.wait() for j in jobs] == [1, 1]
    assert one_line(jobs[0].errors) and "the loss is not finite" in jobs[0].errors and not jobs[1].errors


def test_rows_of_unequal_length():
    "Where rows have different numbers of scored positions, each counts as much as in the whole batch."
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 9, (12, 10))
    labels[np.arange(10) > rng.integers(2, 10, (12, 1))] = -100
    scored = labels[:, 1:] != -100
    loss = rng.random(labels.shape)
    mean = lambda rows, at: (rows[:, 1:] * at).sum() / at.sum()
    for world, parts in ((2, 1), (3, 2), (1, 5), (12, 1)):
        pieces = [p for rank in range(world) for p in split(dict(labels=labels, loss=loss), parts, rank, world)]
        total = sum(mean(p["loss"], p["labels"][:, 1:] != -100) * p["weight"] for p in pieces) / world
        assert len(pieces) == world * parts and total == pytest.approx(mean(loss, scored))


def test_two_runs_in_one_job(lab, runs_root, uninterrupted):
    "The processes stay together; another precision is no obstacle."
    first = PLAIN | dict(precision="bf16", steps=30)
    jobs = start(lab, runs_root, PLAIN, setup=f"\ntraining.train(make({first}), {str(runs_root)!r})")
    assert [j.wait() for j in jobs] == [0, 0], jobs[0].errors
    check_close(run_of(runs_root, PLAIN), uninterrupted(PLAIN))
    assert run_of(runs_root, first).finished


# ---- launchers ----

def launch(launcher, *words, **env):
    "`grok_nb_train` as a user starts it."
    words = [*launcher.split(), "grok_nb_train", *words, "--device", "cpu"]
    words[0] = Path(sys.executable).with_name(words[0])
    path = f"{words[0].parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | env | dict(OMP_NUM_THREADS="1", PATH=path)
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_accelerate(tmp_path):
    "accelerate's launcher (with `--multi_gpu` also on CPUs): the losses of one process, printed and written once."
    launcher = "accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 --no_python"
    options = dict(depth=1, width=16, heads=2, steps=20, warmup_steps=5, evaluate_every=10, checkpoints=2,
                   optimizer="adamw")
    typed = [f"{k}={v}" for k, v in options.items()]
    job = launch(launcher, "modular", "--preset", "smoke", "--runs", tmp_path/"two", "--set", *typed)
    config = study.presets["smoke"].replace(**options)
    out, err = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, err[-2000:]
    first, last = out.splitlines()
    assert ": new, 20 steps" in first and last.startswith("finished: loss")
    two, one = Run(tmp_path/"two"/config.run_id), train(config, tmp_path/"one", device="cpu")
    assert [s["processes"] for s in two.sessions()] == [2] and two.steps == one.steps
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-2)


@pytest.mark.slow # nbs/core/05_training.ipynb starts it for real in every test run, and the tests above stop such processes
def test_torchrun(lab, runs_root, uninterrupted, hold):
    "SIGTERM to the launcher, as a cluster gives notice: the processes commit a checkpoint together, and one process goes on."
    launcher = "torchrun --standalone --nproc-per-node 2 --no-python"
    job = launch(launcher, *argv(runs_root, PLAIN), **lab.env | dict(SLOW=".02", HOLD=str(hold)))
    metrics = lambda: sum(p.read_bytes().count(b"\n") for p in runs_root.glob("*/metrics.jsonl"))
    wait_for(lambda: metrics() > 2 or job.poll() is not None, "three evaluations")
    job.terminate()
    out, err = job.communicate(timeout=PATIENCE)
    run = run_of(runs_root, PLAIN)
    assert job.returncode and len(out.splitlines()) == 1 and ": new, 120 steps" in out, err[-2000:]
    assert run.state == "interrupted" and run.resumable.step == max(run.steps) >= 30
    check_close(lab.finish(runs_root, PLAIN), uninterrupted(PLAIN))
    assert [s["processes"] for s in run.sessions()] == [2, 1]
