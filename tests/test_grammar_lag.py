"The lag against slow definitions: every split of six pairs, crossings one at a time, p-values that are uniform when nothing acts, and named conditions."
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from grok_nb import InputError
from grok_nb.grammar.lag import (arrivals, accuracies, curve_table, frequency_strata, half_way, lag_figure, lag_table, lags, overlap, p_values, phrase_frequency, planted,
                                 random_splits, reached, selection, selection_counts, split_figure, split_table, split_test, verdicts)
from grok_nb.intervals import Interval, crossing

STEPS = np.array([0, 100, 250, 400, 1000, 1100])


@st.composite
def cases(draw, most=12):
    "Steps, verdicts and exposure with both groups, of any kind."
    pairs, checkpoints = draw(st.integers(2, most)), draw(st.integers(2, 6))
    g = np.random.default_rng(draw(st.integers(0, 2**32)))
    exposed = g.permutation(np.arange(pairs) < draw(st.integers(1, pairs - 1)))
    return STEPS[:checkpoints], g.random((checkpoints, pairs)) < draw(st.sampled_from([.3, .6, .8, .95])), exposed


def slow_lag(steps, correct, exposed, tau, sustained):
    "Bounds of the lag between first checkpoints, from `crossing`; and the gap."
    curves, bounds = [correct[:, which].mean(1) for which in (exposed, ~exposed)], []
    for curve in curves:
        when = crossing((steps, curve), tau, sustained=sustained)
        if when.reached: bounds.append((when.hi, when.hi)); continue
        later = [s for s, a in zip(steps, curve) if s > when.lo] # at the end, too few in a row to count
        bounds.append((later[0] if later else np.nextafter(steps[-1], np.inf), np.inf))
    (a, b), (c, d) = bounds
    gap = sum((curves[0][i] - curves[1][i] + curves[0][i + 1] - curves[1][i + 1])/2*(steps[i + 1] - steps[i]) for i in range(len(steps) - 1))
    return c - b, d - a, gap/(steps[-1] - steps[0])


# ---- times and lags ----

@settings(max_examples=60)
@given(cases(), st.sampled_from([.5, .7, .8, 1.0]), st.integers(1, 4))
def test_splits_at_once_are_crossings_one_at_a_time(case, tau, sustained):
    steps, correct, exposed = case
    splits = random_splits(exposed, 5)
    table = split_table(steps, correct, splits, tau, sustained)
    for row, split in zip(table.itertuples(), splits):
        lo, hi, gap = slow_lag(steps, correct, split, tau, sustained)
        assert (row.lag_from, row.lag_to) == (lo, hi) and row.gap == pytest.approx(gap) and row.exposed == split.sum()


@settings(max_examples=60)
@given(cases(), st.integers(1, 3))
def test_lags_are_those_of_the_curves(case, sustained):
    steps, correct, exposed = case
    table = lags(steps, correct, exposed, (.5, .9), (sustained,))
    for row in table.itertuples():
        first, second = (crossing((steps, c), row.threshold, sustained=sustained) for c in accuracies(correct, exposed))
        assert (row.t_train, row.t_val) == (first.hi, second.hi)
        assert (row.lag_lo, row.lag_hi) == ((second - first).lo, (second - first).hi)
        if first.reached and second.reached: assert row.lag == second.hi - first.hi and row.lag_lo <= row.lag <= row.lag_hi
        else: assert np.isnan(row.lag)


def test_thresholds_and_censoring_by_hand():
    steps = [100, 200, 300, 400]
    exposed = np.array([True]*5 + [False]*5)
    correct = np.array([[5, 1], [2, 2], [4, 3], [5, 3]])
    correct = np.array([[i < a for i in range(5)] + [i < b for i in range(5)] for a, b in correct])
    table = lags(steps, correct, exposed, (.6, .8), (1, 2)).set_index(["threshold", "sustained"])
    assert table.t_train.tolist() == [100, 300, 100, 300] # a first checkpoint that does not hold counts only plainly
    assert table.lag.tolist()[:2] == [200, 0] and table.lag.isna().tolist()[2:] == [True, True]
    assert (table.lag_lo[.8, 1], table.lag_hi[.8, 1]) == (300, np.inf)
    assert reached((steps, [.1, .79, .8, .9]), .8, 2) == Interval(200, 300)


# ---- random splits ----

@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(1, 4)), min_size=2, max_size=10), st.integers(0, 99))
def test_what_random_splits_keep(phrases, seed):
    exposed, strata, cluster = (np.repeat([p[i] if i < 2 else n for n, p in enumerate(phrases)], [p[2] for p in phrases]) for i in range(3))
    both = [s for s in set(strata) if len(set(exposed[strata == s])) == 2]
    assume(both)
    splits = random_splits(exposed, 30, strata, cluster, seed)
    assert (splits[0] == exposed).all() and splits.dtype == bool and splits.shape == (31, len(exposed))
    first = np.unique(cluster, return_index=True)[1]
    assert (splits == splits[:, first[cluster]]).all() # phrases stay whole
    for s in set(strata):
        of = splits[:, first][:, strata[first] == s].sum(1)
        assert (of == of[0]).all() # as many phrases in every stratum
        if s not in both: assert (splits[:, strata == s] == exposed[strata == s]).all()
    assert (random_splits(exposed, 30, strata, cluster, seed) == splits).all()


@pytest.mark.parametrize("how, count", [(dict(), 20), (dict(strata=[0, 0, 1, 1, 0, 1]), 9), (dict(cluster=[0, 0, 1, 2, 2, 3]), 6)])
def test_every_possible_split_is_drawn_alike(how, count):
    exposed = np.array([1, 1, 1, 0, 0, 0], bool)
    kinds, drawn = np.unique(random_splits(exposed, 6000, **how)[1:], axis=0, return_counts=True)
    assert len(kinds) == count and stats.chisquare(drawn).pvalue > 1e-3


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([.5, 2/3]))
def test_p_values_are_those_of_all_splits_of_six_pairs(seed, tau):
    g = np.random.default_rng(seed)
    steps, exposed = STEPS[:5], np.array([1, 1, 1, 0, 0, 0], bool)
    correct = g.random((5, 6)) < np.linspace(.3, .9, 5)[:, None]
    observed, certain, possible, gaps = slow_lag(steps, correct, exposed, tau, 1), 0, 0, 0
    every = [np.isin(np.arange(6), chosen) for chosen in combinations(range(6), 3)]
    for split in every:
        lo, hi, gap = slow_lag(steps, correct, split, tau, 1)
        certain, possible, gaps = certain + (lo >= observed[1]), possible + (hi >= observed[0]), gaps + (gap >= observed[2] - 1e-9)
    exact = p_values(split_table(steps, correct, np.array([exposed, *every]), tau))
    assert [exact[k]*21 for k in ("p_low", "p_high", "gap_p")] == pytest.approx([certain + 1, possible + 1, gaps + 1])
    drawn = split_test(steps, correct, exposed, tau, n=4000)
    for name, count in (("p_low", certain), ("p_high", possible), ("gap_p", gaps)): assert abs(drawn[name] - count/20) < .04


@settings(max_examples=60)
@given(cases(30), st.integers(1, 3), st.sampled_from([.6, .8]))
def test_a_longer_run_gives_a_p_within_the_interval_of_a_shorter_one(case, sustained, tau):
    steps, correct, exposed = case
    splits = random_splits(exposed, 60)
    whole = p_values(split_table(steps, correct, splits, tau, sustained))
    for until in range(2, len(steps)):
        cut = p_values(split_table(steps[:until], correct[:until], splits, tau, sustained))
        assert cut["p_low"] <= whole["p_low"] <= whole["p_high"] <= cut["p_high"]
        assert cut["lag_from"] <= whole["lag_from"] <= whole["lag_to"] <= cut["lag_to"]


# ---- what the tests say when nothing, something, or something else acts ----

def ps(count, ways, pairs=120, phrases=40, n=99, **causes):
    "p of the gap and (upper) of the lag, (world, way)."
    found = []
    for seed in range(count):
        w = planted(pairs=pairs, phrases=phrases, seed=seed, **causes)
        for way in ways:
            how = dict(cluster=w["cluster"] if "phrases" in way else None, strata=frequency_strata(w["frequency"]) if "strata" in way else None)
            test = split_test(w["steps"], w["correct"], w["exposed"], n=n, seed=seed, **how)
            found.append((test["gap_p"], test["p_high"]))
    return np.array(found).reshape(count, len(ways), 2)


def test_a_planted_cause_moves_the_time_by_as_much_as_it_says():
    "Nothing else differs between worlds of one seed: a phrase is known as it is where that time is everybody's."
    for causes in (dict(by_exposure=250), dict(by_frequency=150), dict(by_exposure=250, by_frequency=-150, at=700)):
        w, plain = planted(**causes, pairs=60, phrases=20, seed=3), planted(pairs=60, phrases=20, seed=3)
        assert (w["exposed"] == plain["exposed"]).all() and (w["frequency"] == plain["frequency"]).all() and set(w["cluster"]) == set(range(20))
        for phrase in range(20):
            which = w["cluster"] == phrase
            exposed, frequency = w["exposed"][which][0], w["frequency"][which][0]
            at = causes.get("at", 900) - causes.get("by_exposure", 0)*exposed - causes.get("by_frequency", 0)*frequency
            assert (w["correct"][:, which] == planted(at, pairs=60, phrases=20, seed=3)["correct"][:, which]).all()


def test_p_is_uniform_where_nothing_acts():
    found = ps(200, ("pairs", "phrases"))
    for way in range(2):
        assert stats.kstest(found[:, way, 0], "uniform").pvalue > .01
        assert stats.binomtest((found[:, way, 0] <= .05).sum(), len(found), .05).pvalue > .005
        assert (found[:, way, 1] <= .05).mean() <= .05 # ties make the lag's p too large, never too small


def test_pairs_of_one_phrase_are_not_independent():
    pairs, phrases = (ps(120, ("pairs", "phrases"), pairs=200, phrases=20, alike=800)[:, :, 0] <= .05).mean(0)
    assert pairs > .15 > .11 > phrases


def test_the_gap_left_is_without_that_of_the_random_splits():
    w = planted(by_frequency=300, pairs=200, phrases=80)
    strata = frequency_strata(w["frequency"])
    table = split_table(w["steps"], w["correct"], random_splits(w["exposed"], 300, strata, w["cluster"]))
    test = split_test(w["steps"], w["correct"], w["exposed"], n=300, strata=strata, cluster=w["cluster"])
    assert test == p_values(table) and test["gap_left"] == pytest.approx(table.gap[0] - table.gap[1:].mean()) and test["gap_left"] < test["gap"]/2


def test_frequency_is_seen_only_within_strata():
    pairs, phrases, strata = (ps(40, ("pairs", "phrases", "phrases, strata"), 400, 200, by_frequency=300)[:, :, 0] <= .05).mean(0)
    assert pairs > .7 and phrases > .7 and strata < .2
    strata, = (ps(20, ("phrases, strata",), 1000, 250, by_exposure=300)[:, :, 0] <= .05).mean(0)
    assert strata > .8 # and an effect of exposure is still found


@settings(max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 8))
def test_strata_are_in_order_and_keep_ties(frequency, bins):
    strata, frequency = frequency_strata(frequency, bins), np.array(frequency)
    assert set(strata) == set(range(strata.max() + 1)) and strata.max() < bins
    for a, b in combinations(range(len(frequency)), 2): assert (strata[a] <= strata[b]) or frequency[a] > frequency[b]
    assert all(len(set(strata[frequency == f])) == 1 for f in set(frequency))


def test_strata_without_ties_are_of_equal_size():
    for count in (8, 9, 103, 1000): assert np.ptp(np.bincount(frequency_strata(np.random.default_rng(0).permutation(count), 8))) <= 1


def test_strata_need_a_frequency_of_every_pair():
    for wrong in ([1, np.nan, 2], [np.nan]*3, [], [[1, 2]]):
        with pytest.raises(InputError, match="one number for each pair"): frequency_strata(wrong, 2)
    with pytest.raises(InputError, match="bins = 0"): frequency_strata([1, 2], 0)
    assert np.bincount(frequency_strata(range(8), 3)).tolist() == [3, 2, 3] # as many below the middle as above
    assert frequency_strata([5, 1, 3, 1], 2).tolist() == [1, 0, 1, 0] and frequency_strata([3, 2, 1], 1).tolist() == [0]*3


def test_half_way_is_between_chance_and_the_last_three():
    assert half_way(pd.Series([.1, .5, .6, .8, 1.])) == pytest.approx((.5 + .8)/2) and half_way(pd.Series([.9, .9, .9])) == pytest.approx(.7)


def test_overlap_by_hand():
    table = overlap([1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 0, 1, 1, 1], 4)
    assert table.exposed.tolist() == [0, 1, 1, 2] and table.unexposed.tolist() == [2, 1, 1, 0] and table.contributes.tolist() == [False, True, True, False]
    assert table.attrs == dict(coefficient=.5, alone=2, pairs=4)
    assert table.columns.tolist() == ["stratum", "frequency_from", "frequency_to", "exposed", "unexposed", "contributes"] and table.stratum.tolist() == [0, 1, 2, 3]
    assert table.frequency_from.tolist() == [1, 3, 5, 7] and table.frequency_to.tolist() == [2, 4, 6, 8]
    assert overlap(np.repeat(range(8), 2), [0, 1]*8).attrs["coefficient"] == 1
    assert overlap(range(8), [0]*4 + [1]*4, 2).attrs == dict(coefficient=0, alone=2, pairs=0)
    for nobody in ([0, 0], [1, 1]): assert overlap([1, 2], nobody, 2).attrs == dict(coefficient=0, alone=2, pairs=0)


def test_phrase_frequency():
    pairs = pd.DataFrame(dict(phrase_good=["a cat", None], phrase_bad=["a cats", None]))
    assert phrase_frequency(pairs, pd.Series(dict(a=9, cat=3, cats=0)))[0] == pytest.approx((2*np.log(10) + np.log(4))/4)
    assert np.isnan(phrase_frequency(pairs, dict(a=9, cat=3, cats=0))[1])
    with pytest.raises(InputError, match="counts: none for 'cats', a word of pair 0; 0 is a count too"): phrase_frequency(pairs, dict(a=9, cat=3))


# ---- tables ----

def long_table(margins, steps, pairs, run="r"):
    step, pair = np.meshgrid(steps, pairs, indexing="ij")
    return pd.DataFrame(dict(run=run, step=step.ravel(), tokens=0, probe="pairs", pair=pair.ravel(), metric="margin", value=np.asarray(margins, float).ravel()))


@pytest.fixture
def tables():
    "Two runs of three paradigms: with all, without a phrase, without an exposed pair."
    world, n = planted(by_exposure=300, pairs=60, phrases=30), 60
    pairs = pd.DataFrame(dict(pair=np.arange(3*n)[::-1], paradigm=np.repeat(["all", "bare", "unseen"], n), frequency=np.tile(world["frequency"], 3)))
    for side, verb in (("good", "runs"), ("bad", "run")):
        pairs[f"phrase_{side}"] = [None if p == "bare" else f"noun{c} {verb}" for p, c in zip(pairs.paradigm, np.tile(world["cluster"], 3))]
    pairs["exposed"] = [*world["exposed"], *[None]*n, *[False]*n]
    pairs["unigram"] = np.arange(3*n) % 3 == 0
    pairs["first_step"] = np.where(pairs.exposed == True, 100.0*(1 + np.tile(world["cluster"], 3) % 5), np.nan)  # noqa: E712
    margins = np.tile(np.where(world["correct"], .1, -.5), 3)
    return world, pairs, pd.concat([long_table(margins, world["steps"], pairs.pair, run) for run in ("one", "two")])


def test_verdicts_follow_the_pairs(tables):
    world, pairs, long = tables
    other = long.assign(metric="logprob_good", value=np.nan)
    rows = pd.concat([long[long.run == "one"], other]).sample(frac=1, random_state=0).astype(dict(pair=float))
    steps, correct = verdicts(rows[(rows.run == "one") | (rows.metric != "margin")].assign(run="one"), pairs.iloc[:60])
    assert (steps == world["steps"]).all() and (correct == world["correct"]).all()


def test_curves_by_hand(tables):
    world, pairs, long = tables
    curves = curve_table(long, pairs)
    assert set(zip(curves.paradigm, curves.group)) == {("all", "all"), ("all", "exposed"), ("all", "unexposed"), ("bare", "all"), ("unseen", "all"),
                                                       ("unseen", "unexposed")}
    of = curves[(curves.run == "two") & (curves.paradigm == "all")].set_index("group")
    assert np.allclose(of.accuracy["exposed"], world["correct"][:, world["exposed"]].mean(1))
    assert (of.pairs["exposed"] == world["exposed"].sum()).all() and np.allclose(of.unigram["exposed"], (np.arange(60) % 3 == 0)[world["exposed"]].mean())
    seen = {c: 100*(1 + c % 5) for c in set(world["cluster"][world["exposed"]])}
    assert of.met["all"].tolist() == [sum(first <= step for first in seen.values()) for step in world["steps"]]


def test_curves_tell_what_is_known_and_keep_the_order_of_the_runs(tables):
    _, pairs, long = tables
    known, rest = pairs[pairs.paradigm == "all"], ["run", "paradigm", "group", "step", "pairs", "accuracy"]
    for columns, more in ([], []), (["unigram"], ["unigram"]), (["first_step"], []), (["phrase_good", "phrase_bad"], []), (["phrase_good", "phrase_bad", "first_step"], ["met"]):
        assert curve_table(long, known[["pair", "paradigm", "exposed", *columns]]).columns.tolist() == rest + more
    turned = curve_table(pd.concat([long[long.run == "two"], long[long.run == "one"]]), known)
    assert turned.run.unique().tolist() == ["two", "one"] and turned.group.unique().tolist() == ["all", "exposed", "unexposed"]


def test_lag_table_is_the_tests_one_by_one(tables):
    world, pairs, long = tables
    table = lag_table(long, pairs, n=200, bins=3).set_index(["run", "paradigm"])
    assert table.index.tolist() == [(run, p) for run in ("one", "two") for p in ("all", "bare", "unseen")]
    row, data = table.loc["one", "all"], (world["steps"], world["correct"], world["exposed"])
    assert row.t_train == lags(*data, (.8,), (1,)).t_train[0] and row.phrases == 30 and row.exposed + row.unexposed == 60 and row.reason == ""
    for way, how in dict(pairs={}, phrases=dict(cluster=world["cluster"]),
                         stratified=dict(cluster=world["cluster"], strata=frequency_strata(world["frequency"], 3))).items():
        test = split_test(*data, n=200, **how)
        assert (row[f"p_{way}_low"], row[f"p_{way}_high"], row[f"gap_p_{way}"], row.gap) == (test["p_low"], test["p_high"], test["gap_p"], test["gap"])
    pd.testing.assert_frame_equal(lag_table(long, pairs, n=200, bins=3, sustained=1, tau=.8, seed=0).set_index(["run", "paradigm"]), table)
    for run in ("one", "two"): assert lag_table(long, pairs, n=9, sustained=4).query("paradigm == 'all' and run == @run").t_train.iloc[0] == lags(*data, (.8,), (4,)).t_train[0]
    assert row.unigram_exposed == pytest.approx(pairs.unigram[:60][world["exposed"]].mean()) and np.isnan(table.loc["one", "unseen"].unigram_exposed)
    by_default, eight, nine = (lag_table(long, pairs, n=9, **bins).overlap[0] for bins in ({}, dict(bins=8), dict(bins=9)))
    assert by_default == eight != nine
    assert row.gap_left == test["gap_left"] and row.overlap == overlap(world["frequency"], world["exposed"], 3).attrs["coefficient"]
    assert table.loc["two", "bare"].reason == "no phrase" and np.isnan(table.loc["two", "bare"].gap)
    assert table.loc["two", "unseen"].reason == "exposed: no pair is exposed, and a lag needs both groups"


def test_a_first_checkpoint_counts_unless_more_are_asked_for():
    "One lucky checkpoint, then two in a row that go, then three: each number in a row has its own time, and the paper's is the first."
    pairs, steps = pd.DataFrame(dict(pair=range(8), paradigm="p", exposed=[True]*4 + [False]*4)), np.arange(100, 1300, 100)
    right = np.array([[c == "1" for c in line] for line in ("010011001111", "001001100111")]).T # exposed, unexposed
    long = long_table(np.where(np.repeat(right, 4, axis=1), 1., -1.), steps, pairs.pair, "r")
    for options, times in (({}, (200, 300)), (dict(sustained=2), (500, 600)), (dict(sustained=3), (900, 1000)), (dict(sustained=4), (900, np.inf))):
        row = lag_table(long, pairs, n=5, **options).iloc[0]
        assert (row.t_train, row.t_val) == times
    assert split_table(steps, right.repeat(4, axis=1), pairs.exposed.to_numpy()[None]).lag_to[0] == split_test(steps, right.repeat(4, axis=1), pairs.exposed.to_numpy(), n=5)["lag_to"] == 100
    assert reached((steps, right[:, 0] * 1.)) == Interval(800, 900)


def test_lag_table_says_what_it_lacks(tables):
    world, pairs, long = tables
    some = pairs[pairs.paradigm == "all"]
    only = lag_table(long, some[["pair", "paradigm", "exposed"]], n=20)
    assert (only.reason == "no phrases, so no test over them; no frequency, so no strata").all()
    assert only.p_pairs_high.notna().all() and only.p_phrases_high.isna().all()
    apart = lag_table(long, some.assign(frequency=np.where(some.exposed, 1.0, 0.0)), n=20, bins=2)
    assert apart.reason.str.contains("stratified: strata: none holds both").all() and (apart.overlap == 0).all() and apart.p_stratified_high.isna().all()
    one = lag_table(long[long.step == 900], some, n=20)
    assert (one.reason == "steps: 1 checkpoint; a lag needs at least two").all() and one.lag.isna().all()
    never = lag_table(long[long.step < 400], some, n=20)
    assert never.reason.str.startswith("exposed pairs do not reach 0.8; unexposed pairs do not reach 0.8").all() and (never.p_pairs_high == 1).all()


# ---- selection ----

def curve_rows(paradigm, whole, exposed=None, unexposed=None, sizes=(200, 200), run="r"):
    parts = [(g, c, n) for g, c, n in (("all", whole, 1000), ("exposed", exposed, sizes[0]), ("unexposed", unexposed, sizes[1])) if c is not None]
    return pd.concat([pd.DataFrame(dict(run=run, paradigm=paradigm, group=g, step=[100, 200, 300, 400], pairs=n, accuracy=c)) for g, c, n in parts])


RISES, HIGH, LOW, FALLS_SHORT = [.5, .6, .7, .9], [.6, .7, .9, .9], [.5]*4, [.5, .6, .7, .79]


def test_each_paradigm_falls_at_the_first_stage_it_fails():
    curves = pd.concat([curve_rows("kept", RISES, RISES, RISES), curve_rows("high", HIGH, HIGH, HIGH), curve_rows("low", LOW, LOW, LOW, (9, 9)),
                        curve_rows("bare", RISES), curve_rows("few", RISES, RISES, RISES, (99, 200)), curve_rows("none", RISES, None, RISES),
                        curve_rows("short", RISES, RISES, FALLS_SHORT), curve_rows("seen", RISES, RISES)], ignore_index=True)
    table = selection(curves).set_index("paradigm")
    assert table.fell.to_dict() == dict(kept="", high="early", low="never", bare="phrase", few="exposed", none="exposed", short="unexposed", seen="unexposed")
    assert table.early["kept"] == pytest.approx(.6) and table.peak["kept"] == .9 and table.unexposed_peak["short"] == .79 and table.phrases["few"] == 299
    counts = selection_counts(table.reset_index())
    assert counts.fell.tolist() == [1, 1, 1, 2, 2] and counts.left.tolist() == [7, 6, 5, 3, 1]
    assert counts.columns.tolist() == ["stage", "meaning", "fell", "left"] and counts.meaning[1] == "never reaches the threshold"
    assert selection(curves, early=(100, 200), below=.9, tau=.75, min_exposed=99).fell.tolist() == ["", "", "never", "phrase", "", "exposed", "", "unexposed"]


def test_whoever_is_exactly_at_a_threshold_has_reached_it():
    at = [.5, .6, .7, .8]
    assert selection(curve_rows("x", at, at, at, (100, 100))).fell[0] == "" and selection(curve_rows("x", at, at, at), tau=.81).fell[0] == "never"
    assert selection(curve_rows("x", at, at, at), below=.6).fell[0] == "early" # a mean of .6 is not below it
    assert selection(curve_rows("x", at, at, at), early=(100, 200), below=.551).early[0] == pytest.approx(.55)


def test_a_tie_is_half_a_pair():
    table = pd.DataFrame(dict(step=[0, 0, 1, 1], pair=[0, 1, 0, 1], metric="margin", value=[0., -1., 2., 0.]))
    steps, correct = verdicts(table, pd.DataFrame(dict(pair=[0, 1])))
    assert correct.tolist() == [[.5, 0], [1, .5]] and [a.tolist() for a in accuracies(correct, [1, 0])] == [[.5, 1], [0, .5]]
    with pytest.raises(InputError, match="and 0.5 for a tie"): accuracies(correct/2, [1, 0])


@given(st.lists(st.lists(st.sampled_from([-1., 0., 1.]), min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_pair_arrives_behind_its_last_wrong_checkpoint(margins):
    steps = [10*(i + 1) for i in range(len(margins))]
    long = pd.DataFrame([dict(step=step, pair=pair, metric="margin", value=v) for step, row in zip(steps, margins) for pair, v in enumerate(row)])
    found = arrivals(long, pd.DataFrame(dict(pair=[2, 0, 1], paradigm=["c", "a", "b"])))
    assert found.pair.tolist() == [2, 0, 1] and found.paradigm.tolist() == ["c", "a", "b"]
    for row in found.itertuples():
        wrong = [step for step, values in zip(steps, margins) if values[row.pair] <= 0]
        after = [step for step in steps if not wrong or step > wrong[-1]]
        assert row.state == ("always" if not wrong else "arrived" if after else "not yet")
        assert row.last_wrong == wrong[-1] if wrong else np.isnan(row.last_wrong)
        assert row.right_from == after[0] if after else np.isnan(row.right_from)


def test_steps_may_follow_each_other():
    right = np.array([[0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    [row] = lags([0, 1, 2], right, [1, 1, 0, 0], (1.,), (1,)).to_dict("records")
    assert (row["t_train"], row["t_val"], row["lag"], row["lag_lo"], row["lag_hi"]) == (1, 2, 1, 0, 2)
    for wrong in ([0, 1, 1], [0, 2, 1], [0, 1, np.inf]):
        with pytest.raises(InputError, match="finite and increasing"): lags(wrong, right, [1, 1, 0, 0])


def test_selection_takes_the_mean_of_runs():
    both = pd.concat([curve_rows("x", RISES, RISES, [.5, .5, .5, .7]), curve_rows("x", RISES, RISES, [.5, .5, .5, .92], run="s")], ignore_index=True)
    assert selection(both).unexposed_peak[0] == pytest.approx(.81) and selection(both).fell[0] == "" and selection(both).exposed[0] == 200
    with pytest.raises(InputError, match=r"early = \(500, 900\): no checkpoint there; steps are 100 to 400"): selection(both, early=(500, 900))


# ---- figures ----

def test_figure_shows_what_the_table_says(tables):
    world, pairs, long = tables
    curves = curve_table(long, pairs)
    fig = lag_figure(curves)
    ax = fig.axes[0]
    assert ax.get_title() == "all" and np.allclose(ax.lines[0].get_ydata(), world["correct"][:, world["exposed"]].mean(1))
    lag = lags(world["steps"], world["correct"], world["exposed"], (.8,), (1,)).lag[0]
    assert any(t.get_text() == f"lag {lag:g} steps" for t in ax.texts)
    cut = lag_figure(curves[curves.step <= 700]).axes[0]
    assert any(t.get_text().startswith(("lag > ", "exposed do not reach 80%")) for t in cut.texts)
    assert not any("unigram" in t.get_text() for t in lag_figure(curves.drop(columns=["unigram", "met"])).legends[0].texts)
    for bad in (["bare"], ["al"]):
        with pytest.raises(InputError, match="paradigm .* is unknown"): lag_figure(curves, bad)
    with pytest.raises(InputError, match="no paradigm with exposed and unexposed pairs"): lag_figure(curves[curves.paradigm == "bare"])
    assert split_figure({"pairs": split_table(world["steps"], world["correct"], random_splits(world["exposed"], 50))}).axes[0].patches
    assert not plt.get_fignums()


def test_figure_shows_mean_and_standard_error_of_the_runs():
    "Two runs a tenth below and above their mean: the standard error is that tenth. Groups other than these two need not be there."
    seen, unseen = np.array([.5, .6, .8, .9]), np.array([.5, .5, .6, .7])
    curves = pd.concat([curve_rows("x", seen, seen + d, unseen + d, run=str(d)) for d in (-.1, .1)])
    fig = lag_figure(curves[curves.group != "all"].assign(unigram=.4))
    [ax] = fig.axes
    for line, band, mean in zip(ax.lines[:3:2], ax.collections, (seen, unseen)):
        points = band.get_paths()[0].vertices
        assert np.allclose(line.get_ydata(), mean) and all(np.isclose(points, (step, m + d)).all(1).any() for step, m in zip((100, 200, 300, 400), mean) for d in (-.1, .1))
    assert [t.get_text() for t in fig.legends[0].texts] == ["threshold", "unigram model"] and any(t.get_text() == "lag > 100 steps" for t in ax.texts)
    assert [t.get_text() for t in ax.get_legend().texts] == ["exposed (200 pairs)", "unexposed (200 pairs)"]


# ---- mistakes ----

W = planted(pairs=20, phrases=10)
DATA = W["steps"], W["correct"], W["exposed"]


@pytest.mark.parametrize("call, message", [
    (lambda: lags(*DATA[:2], np.zeros(20)), "no pair is exposed"),
    (lambda: split_test(*DATA[:2], np.ones(20)), "no pair is unexposed"),
    (lambda: lags(DATA[0], DATA[1][0], DATA[2]), r"correct: an array \(checkpoint, pair\) is needed, not one of 1 axes"),
    (lambda: accuracies(np.where(DATA[1], 1, np.nan), DATA[2]), "correct: only True and False"),
    (lambda: accuracies(DATA[1], [None, *DATA[2][1:]]), "exposed: only True and False"), (lambda: accuracies(DATA[1], [.5, *DATA[2][1:]]), "exposed: only True and False are"),
    (lambda: accuracies(DATA[1], pd.array([pd.NA, *DATA[2][1:]], dtype="boolean")), "exposed: only True and False"),
    (lambda: accuracies(DATA[1]*2, DATA[2]), "correct: only True and False"),
    (lambda: lags(DATA[0][:1], DATA[1][:1], DATA[2]), "1 checkpoint; a lag needs at least two"),
    (lambda: lags(DATA[0][:3], *DATA[1:]), "3 values for the 20 checkpoints"),
    (lambda: split_test(np.r_[100, DATA[0][:-1]], *DATA[1:]), "finite and increasing"),
    (lambda: split_test(np.r_[DATA[0][:-1], np.nan], *DATA[1:]), "finite and increasing"),
    (lambda: split_test(*DATA, tau=0), "tau = 0"), (lambda: split_test(*DATA, sustained=.5), "sustained = 0.5: must be a whole number"),
    (lambda: split_test(*DATA, n=0), "n = 0"), (lambda: split_test(*DATA, strata=[1, 2]), "strata: one value for each of the 20 pairs"),
    (lambda: split_test(*DATA, strata=[np.nan]*20), r"strata: a pair has none \(NaN\)"),
    (lambda: split_test(*DATA, cluster=[0]*20), "move together but differ in exposed"),
    (lambda: split_test(*DATA, cluster=W["cluster"], strata=np.arange(20)), "move together but differ in strata"),
    (lambda: split_test(*DATA, strata=DATA[2]), "none holds both exposed and unexposed"),
    (lambda: split_table(*DATA[:2], [DATA[2], [True]*20]), "leaves a group empty"),
    (lambda: frequency_strata([]), "frequency: one number for each pair"), (lambda: frequency_strata([1, 2], 0), "bins = 0"),
    (lambda: overlap([1, 2], [True]), "1 values for 2 frequencies"), (lambda: planted(phrases=2000), "phrases = 2000")])
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message) as error: call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change, message", [
    (lambda t, p: (t.drop(columns="value"), p), "table: no column 'value'; there are run, step"),
    (lambda t, p: (t, p.drop(columns="pair")), "pairs: no column 'pair'"),
    (lambda t, p: (t, p.drop(columns="paradigm")), "pairs: no column 'paradigm'"),
    (lambda t, p: (t, pd.concat([p, p[:1]])), "pairs: pair 179 is there twice"),
    (lambda t, p: (t.iloc[1:], p), "table: pair 179 has no margin at step 100, or it is NaN"),
    (lambda t, p: (t.assign(value=t.value.where(t.index != 7)), p), "pair 172 has no margin at step 100"),
    (lambda t, p: (pd.concat([t, t[:1]]), p), "two margins at one step"),
    (lambda t, p: (t.assign(metric="x"), p), "no margin of any of these pairs"),
    (lambda t, p: (t, p.assign(exposed=None)), "exposed: only True and False")])
def test_tables_that_do_not_fit_are_named(tables, change, message):
    _, pairs, long = tables
    with pytest.raises(InputError, match=message): lag_table(*change(long[long.run == "one"], pairs), n=5)
