"Pruning and deleting: what stays is what it was, goes on to the same bits, and is read as before; what is no run of ours is never touched."
import io
import json
import os
import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file

from grok_nb import commands, prune
from grok_nb.files import is_intact, size_of
from grok_nb.listing import listing
from grok_nb.modular.study import study
from grok_nb.probes import measure, measured
from grok_nb.runs import InputError, Run
from grok_nb.series import Series, verify
from grok_nb.sweeps import read_sweep
from grok_nb.training import train

SMALL = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=32, n_ood=8, attention_dropout=0,
             steps=60, warmup_steps=5, evaluate_every=5, checkpoints=6, checkpoint_on_change=0)
CONFIG = study.presets["smoke"].replace(**SMALL)


def norm(model, context=None): return [dict(metric="norm", value=float(model.get_input_embeddings().weight.norm()))]


def at_half(curve): return curve.index[-1] >= 30


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A finished run, and one that a rule has ended at half its way; not to be changed."
    root = tmp_path_factory.mktemp("runs")
    train(CONFIG, root, progress=False)
    train(CONFIG.replace(seed=1), root, progress=False, until=at_half)
    return root


@pytest.fixture
def root(trained, tmp_path): return shutil.copytree(trained, tmp_path/"runs", copy_function=shutil.copy2)


@pytest.fixture
def run(root): return Run(root/CONFIG.run_id)


@pytest.fixture
def half(root): return Run(root/CONFIG.replace(seed=1).run_id)


def weights(run): return {c.step: load_file(c.path/"model.safetensors") for c in run.checkpoints}
def alike(a, b): return a.keys() == b.keys() and all((a[n] == b[n]).all() for n in a)
def files(root): return {str(p.relative_to(root)): p.stat().st_size for p in sorted(root.rglob("*")) if p.is_file()}


def said(capsys, *words):
    capsys.readouterr()
    prune.grok_nb_prune([*map(str, words)])
    return capsys.readouterr().out


def told(capsys, *words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: prune.grok_nb_prune([*map(str, words)])
    got = capsys.readouterr()
    assert e.value.code == 2 and got.out == "" and got.err.count("\n") == 1, got
    return got.err


def test_what_stays_is_what_it_was(run, root, capsys):
    before, metrics = weights(run), run.metrics()
    table, size = measure(run, dict(norm=norm)), size_of(run.path)
    for _ in range(2): text = said(capsys, run.run_id, "--runs", root, "--most", 3, "--dry-run")
    assert "4 of 7 checkpoints, 1 optimiser state" in text and size_of(run.path) == size
    said(capsys, run.run_id, "--runs", root, "--most", 3, "--yes")
    run = Run(run.path)
    assert run.steps == [0, 30, 60] and run.state == "finished" and not [*run.path.rglob("training_state*")]
    assert all(alike(new, before[s]) for s, new in weights(run).items())
    for c in run.checkpoints: assert is_intact(c.path, deep=True) and c.verify(state=True) is None and c.model
    pd.testing.assert_frame_equal(run.metrics(), metrics)
    pd.testing.assert_frame_equal(measured(run, dict(norm=norm)), table) # of those that are gone, too
    pd.testing.assert_frame_equal(measure(run, dict(norm=norm)), table)
    assert verify(Series(run)).attrs == dict(summary="3 distinct of 3", remarks=[]) and not run.unsound()
    assert listing(root)[1] == {} and "finished" in set(listing(root)[0].state)
    again = train(run.config, root, progress=False)
    assert again.steps == [0, 30, 60] and len(again.sessions()) == 1 # nothing is trained again
    assert "nothing was removed" in said(capsys, run.run_id, "--runs", root, "--most", 3, "--yes")


def test_without_a_number_only_states_go(run, root, capsys):
    said(capsys, run.path, "--yes")
    assert run.steps == [0, 10, 20, 30, 40, 50, 60] and not [*run.path.rglob("training_state*")]


def interrupted(run, step):
    "The run as it was when it had come so far, and was stopped."
    for s in run.steps:
        if s > step: shutil.rmtree(run.folder(s))
    run.cut_back(step)
    return Run(run.path)


def test_a_stopped_run_goes_on_to_the_same_bits(trained, tmp_path, capsys):
    whole, root = weights(Run(trained/CONFIG.run_id)), tmp_path/"runs"
    many = CONFIG.replace(keep_states=9)
    run = interrupted(train(many, root, progress=False), 40)
    assert run.state == "interrupted" and [c.step for c in run.checkpoints if c.has_state] == [0, 10, 20, 30, 40]
    said(capsys, run.path, "--most", 2, "--yes")
    assert run.steps == [0, 40] and [c.step for c in run.checkpoints if c.has_state] == [40]
    done = train(many, root, progress=False)
    assert done.steps == [0, 40, 50, 60] and all(alike(w, whole[s]) for s, w in weights(done).items())
    assert len(done.sessions()) == 2 and not done.missing_evaluations(60)


def test_where_training_would_go_on_from_stays(trained, tmp_path, capsys):
    "The last checkpoint has lost its optimiser state: the one before it is what a resume needs."
    whole, root = weights(Run(trained/CONFIG.run_id)), tmp_path/"runs"
    run = interrupted(train(CONFIG.replace(keep_states=9), root, progress=False), 40)
    (run.folder(40)/"training_state.safetensors").unlink()
    said(capsys, run.path, "--most", 2, "--yes")
    assert run.steps == [0, 30, 40] and run.resumable.step == 30
    done = train(run.config, root, progress=False)
    assert done.finished and all(alike(w, whole[s]) for s, w in weights(done).items())


def test_a_run_that_a_rule_has_ended_stays_so(half, root, capsys):
    assert half.state == "stopped" and half.steps[-1] == 30
    said(capsys, half.path, "--most", 2, "--yes")
    assert half.steps == [0, 30] and half.state == "stopped" and not [*half.path.rglob("training_state*")]


def test_steps_that_claims_compare_stay(run, monkeypatch, capsys):
    monkeypatch.setattr(run.study, "compared_steps", lambda config: [19])
    said(capsys, run.path, "--most", 2, "--yes")
    assert run.steps == [0, 20, 60]


def test_deleted_as_a_whole(run, half, root, capsys):
    "The others stay, and a sweep that it was of is read without it."
    folder = root/"sweeps"/"mine"
    folder.mkdir(parents=True)
    (folder/"sweep.json").write_text(json.dumps(dict(facts={}, runs=[run.run_id, half.run_id])))
    before = files(half.path)
    assert "all of it, 7 checkpoints" in said(capsys, run.run_id, run.path, "--runs", root, "--delete", "--yes")
    assert not run.path.exists() and files(half.path) == before and sorted(p.name for p in root.iterdir()) == sorted([half.run_id, "sweeps"])
    assert [r.run_id for r in read_sweep(folder)[1]] == [half.run_id]
    assert train(CONFIG, root, progress=False).finished # and it can be trained again


@pytest.mark.parametrize("answer, goes", [("y", True), ("yes", True), ("", False), ("n", False), ("Yes!", False)])
def test_it_asks(run, capsys, monkeypatch, answer, goes):
    class Terminal(io.StringIO):
        def isatty(self): return True
    monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
    text = said(capsys, run.path, "--most", 2)
    assert "Remove this? [y/N]" in text and (len(run.steps) == 2) == goes and ("nothing was removed" in text) != goes


def folder_of(root, name, **contents):
    (root/name).mkdir()
    for file, text in contents.items(): (root/name/file.replace("_", ".")).write_text(text)
    return root/name


def test_what_is_no_run_is_never_touched(run, half, root, capsys):
    "Folders, models, configurations of other versions, runs with notes in them, runs that are being trained: one line, and all is there."
    (half.path/"notes.txt").write_text("mine")
    wrong = {folder_of(root, "plain"): "is unknown", folder_of(root, "model", config_json='{"model_type": "llama"}'): "cannot be read",
             folder_of(root, "other", config_json='{"study": "physics", "run_id": "x", "options": {}}'): "'physics' is unknown",
             half.path: "holds notes.txt", root: "is unknown", root/"nothing": "is unknown"}
    before = files(root)
    for path, why in wrong.items():
        assert why in told(capsys, path, "--delete", "--yes", "--runs", root)
        assert why in told(capsys, run.path, path, "--delete", "--yes", "--runs", root) # nor is the one beside it
    with run.lock():
        for words in (["--delete"], ["--most", 2], []): assert "is being trained by another process" in told(capsys, run.path, *words, "--yes")
    for words, why in ((["--most", -1], "at least 1"), (["--most", 2, "--delete"], "leave one of the two out"), (["--spacing", "lin"], "did you mean 'linear'"),
                       ([], "nobody to ask")): assert why in told(capsys, run.path, *words)
    assert files(root) == before


def test_of_a_link_the_link_goes(run, tmp_path, capsys):
    os.symlink(run.path, tmp_path/"link")
    before = files(run.path)
    said(capsys, tmp_path/"link", "--delete", "--yes")
    assert not (tmp_path/"link").is_symlink() and files(run.path) == before
