"The evidence that comes with the package: whole, true today, added to and verified."
import json
import re
from functools import cache
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from grok_nb import InputError, demo_wings, shipped, studies, wings
from grok_nb.claims import gather, ledger
from grok_nb.sweeps import summarise
from grok_nb.training import train

SAID = cache(shipped.witness)
BRIEF = dict(modular=dict(steps=40, warmup_steps=5, evaluate_every=10, checkpoints=2, n_eval=16, checkpoint_on_change=0.0),
             copying=dict(steps=40, warmup_steps=5, evaluate_every=10, checkpoints=2, test_samples=4),
             grammar=dict(steps=40, warmup_steps=5, evaluate_every=10, checkpoints=2, pairs_each=20),
             markov=dict(steps=40, warmup_steps=5, evaluate_every=10, checkpoints=2, n_eval=16))
ONE_QUICK = [*(pytest.param(name, marks=pytest.mark.slow) for name in demo_wings), "markov"]
QUICK = dict(modular="in context", copying="copies to learn from", grammar="lag", markov="unigrams on the way") # a claim on one preset


@pytest.fixture
def brief(monkeypatch):
    "Studies whose demo and control are over in a second, and one look at a study's probes."
    monkeypatch.setattr(shipped, "witness", SAID)
    for name in BRIEF:
        for preset in ("demo", "control"):
            changed = studies[name].presets["smoke"].replace(fidelity="demo", **BRIEF[name])
            monkeypatch.setitem(studies[name].presets, preset, changed.replace(lr=2e-3) if preset == "control" else changed)


def trained(name, root, preset="demo", n=2):
    return [train(config, root, progress=False) for config in shipped.judged_configs(studies[name], preset)[:n]]


# ---- what is in the package ----

@pytest.mark.parametrize("name", wings)
def test_the_evidence_is_true_today(name):
    assert not shipped.stale(studies[name])


@pytest.mark.parametrize("name", wings)
def test_every_run_of_the_evidence_is_one_that_claims_are_judged_on(name):
    there, study = shipped.shipped(studies[name]), studies[name]
    runs = there["runs"]
    assert set(runs["preset"]) <= set(shipped.judged_presets(study))
    assert not runs[~runs["preset"].isin([*study.grids])].duplicated(["preset", "seed"]).any() and (runs["state"] == "finished").all() and (runs["minutes"] > 0).all()
    for preset, rows in runs.groupby("preset"):
        assert not rows.duplicated("run").any() and set(rows["seed"]) <= set(shipped.judging_seeds(study, preset))
        known = {config.run_id for config in shipped.judged_configs(study, preset)}
        assert set(rows["run"]) <= known or not known
    probes = {probe: table for probe, table in there.items() if probe != "runs"}
    for probe, table in probes.items(): assert table["value"].notna().any() and set(table["run"]) <= set(runs["run"]), probe
    assert set(runs["run"]) == set().union(*(table["run"] for table in probes.values()))


@pytest.mark.parametrize("name", wings)
def test_a_claim_is_judged_on_the_seeds_that_were_written_down(name):
    "Of all its presets the same ones, so that differences are within a seed."
    study = studies[name]
    for claim in [*study.claims(), *study.sweep_claims()]:
        first, last = claim.record["seeds"]
        for preset in claim.presets:
            seeds = shipped.judging_seeds(study, preset)
            assert seeds[0] == first and seeds[-1] <= last, (claim.name, preset)
            assert not set(seeds) & set(shipped.fresh_seeds)


def test_the_evidence_is_small():
    assert sum(shipped.evidence_file(studies[name]).stat().st_size for name in wings) < 4e6


def test_no_evidence_tells_where_it_was_made():
    for name in wings:
        path = shipped.evidence_file(studies[name])
        said = str(pq.read_schema(path).metadata) + json.dumps([shipped._about(path, kept) for kept in ("runs", "witness")])
        assert "/tmp" not in said and "/work" not in said and "/home" not in said


@pytest.mark.parametrize("name", wings)
def test_a_claim_is_judged_on_its_own_presets_alone(name):
    "What `presets` says is what the test of a claim looks at."
    study = studies[name]
    there = gather(shipped.shipped(study))
    every = ledger(study.claims(), there).set_index("claim")
    def of(presets):
        runs = there["runs"][there["runs"]["preset"].isin(presets)]
        return {probe: table[table["run"].isin(runs["run"])] for probe, table in there.items()}
    for presets in {claim.presets for claim in study.claims()}:
        alone = ledger([claim for claim in study.claims() if claim.presets == presets], of(presets)).set_index("claim")
        found = ["effect", "low", "high", "seeds"]
        pd.testing.assert_frame_equal(alone[found], every.loc[alone.index, found], check_exact=True)


# ---- put in, out of date, made again ----

@pytest.mark.parametrize("name", ONE_QUICK)
def test_what_goes_in_comes_out(name, brief, tmp_path):
    runs = trained(name, tmp_path)
    shipped.add_evidence(runs[:1], "demo", tmp_path)
    shipped.add_evidence(runs, "demo", tmp_path) # the first is there already
    there = shipped.shipped(studies[name], folder=tmp_path)
    assert sorted(there["runs"]["run"]) == sorted(r.run_id for r in runs)
    want = shipped.measured_tables(runs)
    for probe, table in there.items():
        if probe == "runs": continue
        mine = want[want["probe"] == probe].dropna(axis="columns", how="all")
        assert len(mine) == len(table)
        keys = [c for c in table if c not in ("value", "seconds")]
        both = mine.merge(table, on=keys, suffixes=("", "_kept"))
        assert len(both) == len(mine)
        np.testing.assert_allclose(both["value"], both["value_kept"], rtol=1e-6, atol=1e-7)
    row = there["runs"].set_index("run").loc[runs[0].run_id]
    assert row["identity"] == json.loads(json.dumps(runs[0].config.identity)) and row["torch"] and row["cpu"]
    assert not shipped.stale(studies[name], tmp_path)


def test_a_changed_preset_goes_out(brief, tmp_path, monkeypatch):
    study, runs = studies["markov"], trained("markov", tmp_path, n=1)
    shipped.add_evidence(runs, "demo", tmp_path)
    shipped.add_evidence(trained("markov", tmp_path, "control", n=1), "control", tmp_path)
    assert set(shipped.missing(study, folder=tmp_path, most=1)).isdisjoint({"demo", "control"})
    monkeypatch.setitem(study.presets, "demo", study.presets["demo"].replace(lr=5e-3))
    assert shipped.stale(study, tmp_path) == ["markov: the preset demo has changed; make it again: grok_nb_evidence markov"]
    assert [c.seed for c in shipped.missing(study, folder=tmp_path, most=1)["demo"]] == [runs[0].config.seed]
    shipped.add_evidence(trained("markov", tmp_path, n=1), "demo", tmp_path)
    assert sorted(shipped.shipped(study, folder=tmp_path)["runs"]["preset"]) == ["control", "demo"] and not shipped.stale(study, tmp_path)


def test_the_cells_of_a_grid_are_judged_too(tmp_path, monkeypatch):
    study = studies["modular"]
    small = dict(preset="smoke", fixed=BRIEF["modular"] | dict(depth=1, width=16), n_id=[8, 16], alpha=[.6])
    monkeypatch.setitem(study.grids, "phase_cpu", small)
    assert "phase_cpu" in shipped.judged_presets(study) and len(shipped.judged_configs(study, "phase_cpu")) == 2*shipped.of_a_preset
    runs = [train(config, tmp_path, progress=False) for config in shipped.judged_configs(study, "phase_cpu", seeds=(10, 11))]
    assert shipped.shipped_sweep(study, "phase_cpu", tmp_path).empty
    shipped.add_evidence(runs, "phase_cpu", tmp_path)
    assert shipped.rests_on(shipped.shipped(study, folder=tmp_path)["runs"]) == "the evidence (4 × phase_cpu)"
    table = shipped.shipped_sweep(study, "phase_cpu", tmp_path)
    assert table[["n_id", "alpha", "seed"]].to_numpy().tolist() == [[8, .6, 10], [8, .6, 11], [16, .6, 10], [16, .6, 11]]
    want = summarise(runs, ["n_id", "alpha"]).set_index("run")
    for row in table.itertuples():
        assert row.phase == want["phase"][row.run] and row.ood == pytest.approx(want["ood"][row.run], abs=1e-6)
    book = ledger(study.sweep_claims(), dict(sweep=table, runs=shipped.shipped(study, folder=tmp_path)["runs"]))
    assert "more tasks, over the grid" in set(book["claim"])
    assert not shipped.stale(study, tmp_path) and sorted(c.seed for c in shipped.missing(study, folder=tmp_path)["phase_cpu"]) == sorted([*range(12, 10 + shipped.of_a_preset)]*2)
    monkeypatch.setitem(study.grids, "phase_cpu", small | dict(n_id=[8, 12]))
    assert shipped.stale(study, tmp_path) == ["modular: the preset phase_cpu has changed; make it again: grok_nb_evidence modular"]


@pytest.mark.slow
def test_forks_of_a_grid_begin_in_judged_runs_which_are_trained_again(tmp_path, monkeypatch):
    study = studies["modular"]
    small = dict(preset="smoke", fixed=BRIEF["modular"] | dict(depth=1, width=16, keep_states=9))
    for name, more in dict(forked={}, forks_decay=dict(at=[20], weight_decay=[3.])).items(): monkeypatch.setitem(study.grids, name, small | more)
    forks = shipped.judged_configs(study, "forks_decay", seeds=[20]) # no parent is there
    assert [c.at for c in forks] == [20] and forks[0].parent in {c.run_id for c in shipped.judged_configs(study, "forked")}
    monkeypatch.setattr(shipped, "missing", lambda *_: dict(forks_decay=forks))
    shipped.make_evidence(study, root=tmp_path, workers=1, folder=tmp_path)
    there = shipped.shipped(study, folder=tmp_path)["runs"]
    assert there["run"].tolist() == [forks[0].run_id] and there["identity"][0]["start"] == forks[0].start
    assert shipped.shipped_sweep(study, "forks_decay", tmp_path)[["at", "weight_decay", "seed"]].to_numpy().tolist() == [[20, 3, 20]]


def test_a_changed_probe_takes_everything_out(brief, tmp_path, monkeypatch):
    from dataclasses import replace
    study = studies["markov"]
    shipped.add_evidence(trained("markov", tmp_path), "demo", tmp_path)
    def other(config):
        def probe(model, context): return [dict(row, value=row["value"]*2) for row in study.probes(config)["prediction"](model, context)]
        return study.probes(config) | dict(prediction=probe)
    changed = replace(study, probes=other)
    assert shipped.stale(changed, tmp_path) == ["markov: the probe prediction says something else now; make it again: grok_nb_evidence markov"]
    assert len(shipped.missing(changed, folder=tmp_path, most=2)["demo"]) == 2


@pytest.mark.parametrize("name", wings)
def test_a_witness_says_the_same_twice(name):
    first = shipped.witness(studies[name])
    assert shipped.changed_probes(first, shipped.witness(studies[name])) == []
    kept = pd.DataFrame(json.loads(first.to_json(orient="records", double_precision=10))) # as it is kept
    assert shipped.changed_probes(kept, first) == [] and first["value"].notna().mean() > .9


def test_a_probe_that_is_new_or_gone_has_changed():
    said = pd.DataFrame(dict(probe=["a", "a", "b"], metric=["m", "n", "m"], value=[1.0, 5.0, 2.0]))
    assert shipped.changed_probes(said, said[said["probe"] == "a"]) == ["b"]
    assert shipped.changed_probes(said[said["probe"] == "a"], said) == ["b"]
    assert shipped.changed_probes(said, said.assign(value=[1.02, 5.0, 2.0])) == ["a"] and shipped.changed_probes(said, said.assign(value=[1.009, 5.0, 2.0])) == []


def test_no_preset_has_more_seeds_than_can_be_asked_for():
    most = max(len(shipped.judging_seeds(studies[n], preset)) for n in wings for preset in shipped.judged_presets(studies[n]))
    assert most == shipped.of_two_looks


# ---- beside one's own ----

def table_of(preset, seeds, value, run="{preset} {seed}", **about):
    runs = pd.DataFrame([dict(run=run.format(preset=preset, seed=s), study="grammar", preset=preset, fidelity="demo", seed=s) | about for s in seeds])
    rows = pd.concat([pd.DataFrame(dict(run=r, step=[0, 1], probe="p", metric="m", value=value)) for r in runs["run"]])
    return dict(p=rows, runs=runs)


def test_own_runs_are_more_seeds():
    there = table_of("demo", range(10, 14), 1.0, origin="evidence")
    both = shipped.with_evidence(there, table_of("demo", [0], 2.0))
    assert both["runs"]["origin"].value_counts().to_dict() == dict(evidence=4, own=1) and len(both["p"]) == 10
    assert shipped.rests_on(both["runs"]) == "the evidence (4 × demo) and these runs (1 × demo)"
    judged_one = shipped.with_evidence(there, table_of("demo", [10], 1.0)) # the same run id: counted once
    assert len(judged_one["runs"]) == 4 and len(judged_one["p"]) == 8
    another_text = shipped.with_evidence(there, table_of("demo", [10, 0], 2.0, "other {seed}"))
    assert set(another_text["runs"]["origin"]) == {"own"} and set(another_text["p"]["value"]) == {2.0}
    assert set(shipped.with_evidence(there)["runs"]["origin"]) == {"evidence"}
    assert shipped.with_evidence({}) == {} and set(shipped.with_evidence({}, table_of("demo", [0], 2.0))["runs"]["origin"]) == {"own"}


# ---- verified ----

@pytest.mark.parametrize("name", ONE_QUICK)
def test_a_claim_is_verified_from_scratch(name, brief, tmp_path):
    study, claim = studies[name], QUICK[name]
    for preset in next(c for c in study.claims() if c.name == claim).presets: shipped.add_evidence(trained(name, tmp_path, preset), preset, tmp_path)
    found = shipped.verify(study, claim, shipped.fresh_seeds[:1], root=tmp_path, workers=1, folder=tmp_path)
    assert set(found.fresh.values) == {1000} and set(found.judged.values) == set(shipped.judging_seeds(study, "demo")[:2]) and not found.p > 1
    again = claim_of(study, claim).test(shipped.shipped(study, folder=tmp_path))
    assert found.judged.values == again.values
    assert claim in str(found) and re.search("as the evidence says|nothing to compare", str(found))


def claim_of(study, name): return next(c for c in study.claims() if c.name == name)


def test_another_kind_of_run_is_told_from_the_evidence():
    from grok_nb.claims import over_seeds
    claim = claim_of(studies["grammar"], "lag")
    judged = over_seeds({s: 100.0 + s for s in range(10)})
    same, other = (shipped.Verification(claim, over_seeds({s: at + s for s in range(30, 33)}), judged) for at in (74., 400.))
    assert same.p > .05 and other.p < .01 and same.holds == other.holds == 3
    assert "NOT as the evidence says" in str(other) and "NOT" not in str(same)


def test_what_cannot_be_verified_is_refused(tmp_path):
    study = studies["grammar"]
    with pytest.raises(InputError, match="did you mean 'lag'"): shipped.verify(study, "lags", folder=tmp_path)
    with pytest.raises(InputError, match="there is no evidence; make it: grok_nb_evidence grammar"): shipped.verify(study, "lag", folder=tmp_path)
