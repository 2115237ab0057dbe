"The queue of GPU work: its order, its budget, what a second visit does, what is brought back, and what cannot be."
from itertools import count

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from grok_nb import InputError, gpu, shipped, studies
from grok_nb.modular.study import study
from grok_nb.runs import Run

FIVE = dict(p=5, alpha=.8)
LONG = gpu.Item("long", "modular", 8, FIVE | dict(n_id=12))
CELLS = gpu.Item("cells", "modular", 3, FIVE, dict(n_id=[8, 16]))


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    "Two visits: one that had time for a cell, and one that did the rest, told what there was."
    root = tmp_path_factory.mktemp("gpu")
    gpu.work([LONG, CELLS], root/"first", root/"runs", minutes=5, toy=True, clock=count(0, 60).__next__)
    gpu.bring_together([root/"first"], root/"second")
    gpu.work([LONG, CELLS], root/"second", root/"elsewhere", toy=True)
    return root


def runs(folder): return set(shipped.shipped(study, folder=folder)["runs"]["run"])
def names(items): return [item.name for item, _ in items]


def test_the_queue_is_in_order_of_worth():
    "Which the issue of each page names, and every run fits into a visit."
    assert [item.study for item in gpu.queue] == ["modular"]*2 + ["grammar"] + ["copying"]*3 + ["modular"]
    assert all(0 < item.minutes <= 8 and item.study in gpu.toys for item in gpu.queue)
    assert len({item.name for item in gpu.queue}) == len(gpu.queue)
    depths = [runs[0].depth for runs in map(gpu.runs_of, gpu.queue[:2])]
    assert depths == [2, 4] and all(config.p == 29 for item in gpu.queue for config in gpu.runs_of(item))


@pytest.mark.parametrize("toy", [False, True])
def test_no_two_runs_of_the_queue_are_one(tmp_path, toy):
    (tmp_path/"a.txt").write_text("A fox runs over the lazy dog.\n"*300)
    pairs = tmp_path/"pairs.csv"
    pairs.write_text("sentence_good,sentence_bad,phrase_good,phrase_bad,paradigm\nA dog barks.,A dog bark.,dog barks,dog bark,barking\n")
    text = dict(corpus=str(tmp_path/"a.txt"), pairs=str(pairs))
    items = [item if item.study != "grammar" else gpu.Item(**vars(item) | dict(options=dict(paradigms="barking"))) for item in gpu.queue]
    found = [config.run_id for item in items for config in gpu.runs_of(item, text, toy)]
    assert len(found) == len(set(found)) == 5 + 12 + 2 and not any(gpu.runs_of(item) for item in items if item.reads)


def test_a_budget_stops_between_items(visited):
    "What does not fit is left, and a shorter one is done in its place; nothing is cut off."
    assert len(runs(visited/"first")) == 1 and names(gpu.left([LONG, CELLS], visited/"first", toy=True)) == ["long", "cells"]
    assert gpu.work([LONG, CELLS], visited/"none", visited/"runs", minutes=2, toy=True) == [] and not (visited/"none").exists()


def test_a_second_visit_does_only_what_is_missing(visited):
    assert runs(visited/"first") < runs(visited/"second") and len(runs(visited/"second")) == 3
    assert len([*(visited/"elsewhere").glob("*/config.json")]) == 2 and not gpu.left([LONG, CELLS], visited/"second", toy=True)
    again = visited/"again"
    assert gpu.work([LONG, CELLS], visited/"second", again, toy=True) == [] and not again.exists()


def test_tables_and_pictures_come_together(visited, tmp_path):
    from zipfile import ZipFile
    assert gpu.bring_together([visited/"first", visited/"second"], tmp_path) == 3
    assert gpu.bring_together([visited/"second", visited/"first"], tmp_path) == 0
    one, both = (shipped.shipped(study, folder=folder) for folder in (visited/"second", tmp_path))
    for probe in one:
        a, b = (t[probe].drop(columns="origin", errors="ignore").sort_values([*t[probe]]).reset_index(drop=True) for t in (one, both) if probe != "runs") if probe != "runs" else (0, 0)
        if probe != "runs": pd.testing.assert_frame_equal(a, b, check_like=True)
    with ZipFile(tmp_path/"figures.zip") as archive:
        drawn = archive.namelist()
        assert archive.testzip() is None and len(drawn) == len(set(drawn)) and all(name.startswith("long-s0/") for name in drawn)
        assert any("algorithm" in name for name in drawn) and any("heads" in name for name in drawn)


def test_what_comes_back_is_a_few_small_files(visited):
    found = [p for p in (visited/"second").rglob("*")]
    assert {p.name for p in found} == {"evidence_modular.parquet", "figures.zip"} and sum(p.stat().st_size for p in found) < 8e6


def test_the_tables_hold_what_was_measured(visited):
    "Curves of every run, and the insides of those that are no grid."
    there = shipped.shipped(study, folder=visited/"second")
    assert dict(there["runs"].groupby("preset")["run"].nunique()) == dict(long=1, cells=2)
    for folder in (visited/"runs", visited/"elsewhere"):
        for path in folder.glob("*/config.json"):
            run = Run(path.parent)
            ours, theirs = (t[(t["run"] == run.run_id) & (t["probe"] == "accuracy")]["value"] for t in (run.metrics(), there["accuracy"]))
            assert sorted(ours.astype("float32")) == sorted(theirs)
    assert set(there["algorithms"]["run"]) == set(there["runs"].query("preset == 'long'")["run"])
    table = gpu.table_of(CELLS, visited/"second", toy=True)
    assert [*table["n_id"]] == [8, 16] and table["ood"].between(0, 1).all() and gpu.table_of(CELLS, visited/"nowhere", toy=True).empty


def test_what_another_probe_measured_is_not_mixed(visited, tmp_path, monkeypatch):
    path = shipped.evidence_file(study, visited/"second")
    about = {k: v for k, v in pq.read_schema(path).metadata.items()}
    said = pd.DataFrame(shipped._about(path, "witness"))
    said.loc[said["probe"] == "geometry", "value"] += 1
    about[b"witness"] = shipped._squeezed(said.to_json(orient="records"))
    pq.write_table(pq.read_table(path).replace_schema_metadata(about), shipped.evidence_file(study, tmp_path))
    before = path.read_bytes()
    with pytest.raises(InputError, match="measured by another probe geometry"): gpu.bring_together([tmp_path], visited/"second")
    assert path.read_bytes() == before
    assert names(gpu.left([CELLS], tmp_path, toy=True)) == ["cells"]*2 # it is measured again


def test_one_that_fails_does_not_stop_the_others(visited, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "loss", lambda config: lambda logits, labels: logits.sum()*float("nan") if config.n_id == 8 else logits.sum()*0)
    failed = gpu.work([CELLS], tmp_path, tmp_path/"runs", toy=True)
    assert len(failed) == 1 and "n8" in failed[0] and len(runs(tmp_path)) == 1
    assert [*tmp_path.glob("*.parquet")] and "failed" in capsys.readouterr().out


def test_seeds_that_claims_are_judged_on_are_not_these():
    "The tables of visits are no evidence of a claim: they have folders of their own."
    for name in gpu.toys: assert not {item.name for item in gpu.queue} & {*studies[name].presets, *studies[name].grids}


def test_make_knows_it():
    assert "grok_nb_gpu" in (ROOT/"Makefile").read_text() and "grok_nb_gpu=grok_nb.gpu:grok_nb_gpu" in (ROOT/"settings.ini").read_text()
