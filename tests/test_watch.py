"A picture that follows a training: what it draws is what the run has, in this process or in another, and it ends with the run."
import re

import numpy as np
import pytest
from conftest import wait_for

from grok_nb import InputError, commands
from grok_nb.modular.study import study
from grok_nb.probes import curve
from grok_nb.runs import Run
from grok_nb.see.watch import live_figure, watch
from grok_nb.sweeps import train_all
from grok_nb.training import train

SMALL = dict(p=5, n_id=16, alpha=.8, n_shots=4, depth=1, width=16, heads=2, batch_size=16, n_eval=32, n_ood=8,
             steps=60, warmup_steps=5, evaluate_every=10, checkpoints=2, checkpoint_on_change=0)
CONFIG = study.presets["smoke"].replace(**SMALL)


def lines(run): return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in live_figure(run).axes[0].lines}


def test_it_draws_what_the_run_has(tmp_path):
    run = Run.prepare(CONFIG, tmp_path)
    assert not lines(run) and "step 0 of 60" in live_figure(run).axes[0].get_title(loc="left")
    train(CONFIG, tmp_path, progress=False)
    drawn, ours = lines(run), curve(run.metrics(), **study.headline)
    assert [*drawn] == ["unseen tasks", "seen tasks"]
    steps, values = drawn["unseen tasks"]
    assert [*steps] == [*ours.index] and np.array_equal(values, ours)
    ax = live_figure(run).axes[0]
    assert ax.get_xlim() == (0, 60) and "finished, step 60 of 60" in ax.get_title(loc="left")


def test_it_follows_a_training_elsewhere_and_ends_with_it(tmp_path):
    shown = watch(Run.prepare(CONFIG, tmp_path), every=.05)
    assert shown.seen == ("new", 0) and shown.thread.is_alive()
    train_all([CONFIG], tmp_path, workers=1, progress=False)
    wait_for(lambda: not shown.thread.is_alive(), "the last picture")
    assert shown.seen == ("finished", 7) and not shown.refresh()
    assert re.match(r"\s*<svg", shown.widget.value) and shown._repr_mimebundle_()["text/html"] == shown.widget.value


def test_it_can_be_stopped_and_a_folder_that_goes_ends_it(tmp_path):
    shown = watch(Run.prepare(CONFIG, tmp_path), every=.05)
    shown.stop()
    assert not shown.thread.is_alive()
    shown = watch(run := Run.prepare(CONFIG, tmp_path), every=.05)
    run.delete()
    wait_for(lambda: not shown.thread.is_alive(), "the end of what follows nothing")


@pytest.mark.parametrize("every", [0, -1, float("nan")])
def test_a_span_that_is_none_is_refused(tmp_path, every):
    with pytest.raises(InputError, match="every"): watch(Run.prepare(CONFIG, tmp_path), every)


def test_a_run_that_was_stopped_goes_on_before_the_picture_ends(tmp_path):
    run = Run.prepare(CONFIG, tmp_path)
    run.write("failed.json", "{}")
    shown = watch(run, every=.05, page=run.path/"live.html")
    assert shown.seen[0] == "failed" and not shown.over and "refresh" in shown.page.read_text()
    train(CONFIG, tmp_path, progress=False)
    wait_for(lambda: not shown.thread.is_alive(), "the last picture")
    assert shown.seen == ("finished", 7) and shown.over


def test_train_writes_a_page_that_follows(tmp_path, capsys):
    words = [f"{name}={value}" for name, value in SMALL.items()]
    for _ in range(2): # the second finds it finished
        commands.grok_nb_train(["modular", "--preset", "smoke", "--set", *words, "--runs", str(tmp_path), "--watch"])
        said, page = capsys.readouterr().out, tmp_path/CONFIG.run_id/"live.html"
        assert f"open in a browser: {page}" in said and "finished:" in said
        text = page.read_text()
        assert text.startswith("<!doctype html>") and "<svg" in text and f"<title>{CONFIG.run_id}" in text and 'http-equiv="refresh"' not in text
    commands.grok_nb_train(["modular", "--preset", "smoke", "--set", *words, "seed=1", "--runs", str(tmp_path)])
    assert len([*tmp_path.glob("*/live.html")]) == 1 # only where it was asked for


def test_a_page_that_cannot_be_written_stops_no_training(tmp_path):
    shown = watch(Run.prepare(CONFIG, tmp_path), every=.05, page=tmp_path/"no"/"live.html")
    assert train(CONFIG, tmp_path, progress=False).finished
    wait_for(lambda: not shown.thread.is_alive(), "the last picture")
    assert shown.seen == ("finished", 7)
