"The phase diagram, wrong labels, and what the command and the report make of a sweep."
import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import PATIENCE

from grok_nb import InputError, commands
from grok_nb.modular import phases, tasks
from grok_nb.modular.study import study
from grok_nb.runs import Run
from grok_nb.sweeps import plan, read_sweep, sweep

TASKS = dict(p=7, n_id=32, alpha=.6, n_shots=12)
TINY = TASKS | dict(depth=1, width=16, heads=2, batch_size=8, n_eval=64, steps=6, warmup_steps=0, evaluate_every=2, checkpoints=1, checkpoint_on_change=0., optimizer="adamw")
TINY_SWEEP = {k: v for k, v in TINY.items() if k not in ("n_id", "alpha")} # what a grid varies is not fixed


def metrics(curves, chance=1/7, share=.8):
    "A run's table with these last-shot curves: set → values at steps 0, 100, …"
    rows = []
    for name, values in curves.items():
        for i, v in enumerate(values):
            about = dict(run="r", probe="accuracy", set=name, shot="last", queries="all", step=100*i)
            rows += [about | dict(metric=m, value=x) for m, x in dict(accuracy=v, matchable_share=share, chance=chance).items()]
    return pd.DataFrame(rows)


def test_summary_of_an_ability_that_comes_and_goes():
    high, low = [.75]*3, [.15]*3
    found = phases.summary(metrics(dict(id_train=low + high + high, id_test=low*3, ood_train=low + high + low, ood_test=low*3)))
    assert found["phase"].startswith("1 ") and found["phase_best"].startswith("3 ")
    assert found["ood_best_step"] == 500 and found["ood_best"] == pytest.approx(.75) and found["ood"] == pytest.approx(.15)
    assert found["ood_lost"] == pytest.approx(.6) and found["seen"] == pytest.approx(.75)


def test_summary_of_what_never_came():
    "The best step lies in the noise then; the best phase is the last one."
    noise = np.random.default_rng(0).normal(.14, .02, 12)
    found = phases.summary(metrics(dict(id_train=[.15]*6 + [.75]*6, id_test=[.15]*12, ood_train=noise, ood_test=noise)))
    assert found["phase"] == found["phase_best"] and found["phase"].startswith("1 ")


def test_cells_over_seeds():
    names = list(tasks.phases.values())
    table = pd.DataFrame([dict(n_id=8, alpha=.5, seed=s, phase=p) for s, p in enumerate((names[1], names[2], names[2]))]
                         + [dict(n_id=16, alpha=.5, seed=s, phase=p) for s, p in enumerate((names[3], names[1], None))])
    cells = phases.phase_cells(table).set_index("n_id")
    assert cells.phase[8] == names[2] and cells.share[8] == pytest.approx(2/3) and cells.seeds[8] == 3
    assert cells.phase[16] == names[1] and cells.share[16] == .5 and cells.seeds[16] == 2 # of several the first; what was never evaluated does not count
    with pytest.raises(InputError, match="no column 'phase_best'"): phases.phase_cells(table, "phase_best")


def test_the_same_runs_as_before_the_option_was_there():
    "An option that older runs lack changes no run's name as long as it is not set, and makes another run of one where it is."
    plain, wrong = study.config("long", data_seed=0), study.config("long", data_seed=0, wrong_labels=.1) # on one split, as they were
    assert plain.run_id == "modular-p7-n32-a0.85-d2-s0-af37986c" and "wrong_labels" not in plain.identity
    assert wrong.run_id != plain.run_id != study.config("long", data_seed=0, wrong_labels=.2).run_id
    assert study.config("long", data_seed=0, wrong_labels=0).run_id == plain.run_id


def test_a_run_with_wrong_labels_is_no_demo(tmp_path):
    assert Run.create(study.config("demo"), tmp_path).preset == "demo"
    assert Run.create(study.config("demo", wrong_labels=.1), tmp_path).preset == "custom"


def test_wrong_labels_in_training():
    "The share of answers that are wrong; the inputs and all else of a batch are the same."
    clean, wrong = (study.stream(study.config("demo", **TASKS, batch_size=64, wrong_labels=share)) for share in (0, .3))
    pairs = [(clean.batch(s), wrong.batch(s)) for s in range(40)]
    a, b = (np.stack([pair[i]["input_ids"] for pair in pairs]) for i in (0, 1))
    assert (a[..., 0::3] == b[..., 0::3]).all() and (a[..., 1::3] == b[..., 1::3]).all() and b.max() < 7
    assert (a[..., 2::3] != b[..., 2::3]).mean() == pytest.approx(.3, abs=.01)
    assert all((w["labels"][:, 2::3] == w["input_ids"][:, 2::3]).all() for _, w in pairs) # as every stream: labels are the tokens
    assert all((clean.evaluation[n].input_ids == wrong.evaluation[n].input_ids).all() for n in clean.evaluation) # evaluation is clean
    for share in (-.1, 1.1, "many"):
        with pytest.raises(InputError, match="wrong_labels"): study.config("demo", wrong_labels=share)


def test_wrong_labels_at_test_time():
    "A model that copies the answer of the query's own example, if it was shown, follows a wrong one."
    import torch
    made = study.stream(study.config("demo", **TASKS, n_eval=512))
    sequences = made.evaluation["ood_mix"]
    shown = phases.replace(sequences, input_ids=np.concatenate([sequences.input_ids[:, -3:], sequences.input_ids[:, 3:]], 1)) # the query stands first
    class Copier:
        def __call__(self, input_ids, **_):
            answers = torch.nn.functional.one_hot(input_ids[:, 2], 7).float()
            return type("Out", (), dict(logits=answers[:, None].expand(-1, input_ids.shape[1], -1)))
    right = [tasks.score_sequences(Copier(), phases.mislabelled(shown, s), "cpu", 10**6)[0].mean() for s in (0., .4, 1.)]
    assert right[0] == 1 and right[1] == pytest.approx(.6, abs=.08) and right[2] == 0


@pytest.mark.parametrize("seed", range(4))
def test_added_tasks_are_taken_from_the_unseen_ones(seed):
    "Nothing else changes: inputs, and the tasks that were trained on anyway."
    few, more = (tasks.ModularStream(p=7, n_id=32, added_tasks=n, seed=seed, n_eval=64) for n in (0, 8))
    numbers = [{*map(tuple, part.tolist())} for part in (few.id_tasks, more.id_tasks, few.ood_tasks, more.ood_tasks)]
    assert numbers[0] < numbers[1] and numbers[1] - numbers[0] == numbers[2] - numbers[3] and len(numbers[3]) == 9
    assert not numbers[1] & numbers[3] and (few.split[0] == more.split[0]).all()
    met = {tuple(more.id_tasks[i]) for step in range(3) for i in tasks._draw_rows(more, step, np.random.default_rng(0))[0]}
    assert met == numbers[1]
    with pytest.raises(InputError, match="added_tasks = 17: must be at most 16"): tasks.ModularStream(n_id=32, added_tasks=17)


def test_grids_of_the_paper():
    "Three sizes of the task at four depths, each 49 runs of the paper's settings."
    names = [f"phase_p{p}_depth{d}" for p in (29, 37, 47) for d in (1, 2, 4, 6)]
    assert {*study.grids} == {"phase_cpu", "forked", "forks_tasks", "forks_inputs", "forks_decay", *names}
    for name in names:
        configs, facts = plan("modular", name)
        assert len(configs) == 49 and facts["preset"] == "paper" and {c.batch_size % c.n_id for c in configs} == {0}
        assert {(f"phase_p{c.p}_depth{c.depth}", c.steps, c.width) for c in configs} == {(name, 200_000, 512)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    "A finished sweep with a further axis, made by the command."
    root = tmp_path_factory.mktemp("swept")
    words = ["modular", "--grid", "n_id=12,32", "alpha=.6,.85", "task_choice=rectangular,random", "--set", *(f"{k}={v}" for k, v in TINY_SWEEP.items()), "--engine", "serial", "--runs", root]
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err: commands.grok_nb_sweep([*map(str, words), "--json"])
    return root, words, SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


def command(name, *words):
    "In a process of its own."
    code = f"from grok_nb.commands import {name}; {name}()"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True,
                          timeout=PATIENCE)


@pytest.fixture
def here(capsys, monkeypatch):
    "The same in this process."
    monkeypatch.setenv("GROK_NB_RUNS", os.environ["GROK_NB_RUNS"]) # `--runs` changes it
    def here(name, *words):
        capsys.readouterr()
        try: status = getattr(commands, name)([*map(str, words)]) or 0
        except SystemExit as e: status = e.code
        said = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=said.out, stderr=said.err)
    return here


def test_the_command(swept, here):
    root, words, done = swept
    table = pd.DataFrame(json.loads(done.stdout))
    assert len(table) == 8 and set(table.state) == {"finished"} and {*map(type, table.n_id)} == {int}
    about = r"(less than a minute|about [\d,]+ min)" # as this machine is now
    assert re.search(f"8 runs, 0 of them finished; the others take {about} of one process", done.stderr)
    again = here("grok_nb_sweep", *words)
    assert again.returncode == 0 and "8 runs, 8 of them finished" in again.stderr and len(again.stdout.splitlines()) == 9
    [folder] = (root/"sweeps").iterdir()
    from_python = sweep("modular", "demo", dict(n_id=[12, 32], alpha=[.6, .85], task_choice=["rectangular", "random"]), root=root, fixed=TINY_SWEEP, engine="serial", progress=False)
    assert from_python.attrs["folder"] == str(folder) # the same sweep, asked for in another way


def test_a_failure_has_status_1(tmp_path, here):
    tiny = [f"{k}={v}" for k, v in (TINY_SWEEP | dict(steps=40, evaluate_every=10, lr=10., beta1=0., eps=0.)).items()]
    done = here("grok_nb_sweep", "modular", "--grid", "n_id=12,32", "--set", *tiny, "--engine", "serial", "--runs", tmp_path)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("grok_nb_sweep: 2 of 2 runs failed: ") and "Traceback" not in done.stderr
    assert "failed" in done.stdout


def test_report_of_a_sweep_over_other_options(tmp_path, here):
    "Without n_id and alpha there is no diagram, and no claim that needs one is judged."
    words = ["modular", "--grid", "lr=1e-3,3e-3", "--set", *(f"{k}={v}" for k, v in TINY_SWEEP.items()), "--engine", "serial", "--runs", tmp_path]
    assert here("grok_nb_sweep", *words).returncode == 0
    [folder] = (tmp_path/"sweeps").iterdir()
    assert here("grok_nb_report", folder).returncode == 0
    text = (folder/"report.html").read_text()
    assert "<img" not in text and "needs n_id, alpha in the table sweep" in text and "2 finished" in text


def test_dry_run_writes_nothing(tmp_path, here):
    done = here("grok_nb_sweep", "modular", "--grid", "n_id=12,32", "--set", *(f"{k}={v}" for k, v in TINY_SWEEP.items()), "--runs", tmp_path, "--dry-run")
    assert done.returncode == 0 and "2 runs, 0 of them finished" in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("start", [None, pytest.param(command, marks=pytest.mark.slow)], ids=["here", "in a process of its own"])
def test_report_of_a_sweep(swept, here, small_pictures, start):
    root, *_ = swept
    [folder] = (root/"sweeps").iterdir()
    for name in (folder, folder.name):
        done = (start or here)("grok_nb_report", name, "--runs", root)
        assert done.returncode == 0, done.stderr
    text = (folder/"report.html").read_text()
    assert done.stdout.strip() == str(folder/"report.html") and text.count("<img") == 8 # four for each way to choose tasks
    assert "Phases: task_choice = random" in text and "8 finished" in text and "more tasks, over the grid" in text
    assert "<script" not in text and 'src="http' not in text
    run = read_sweep(folder)[1][0].run_id
    done = here("grok_nb_report", folder.name, run, "--runs", root)
    assert done.returncode == 2 and "a sweep has a report of its own" in done.stderr
    (root/"sweeps"/"empty").mkdir()
    (root/"sweeps"/"empty"/"sweep.json").write_text((folder/"sweep.json").read_text().replace("modular-p7", "gone-p7"))
    done = here("grok_nb_report", "empty", "--runs", root)
    assert done.returncode == 2 and "no run of the sweep empty has been evaluated yet" in done.stderr
