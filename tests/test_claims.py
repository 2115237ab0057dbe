"Claims: the rules that turn an interval into a verdict, and nothing else into one."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from grok_nb import InputError, studies, wings
from grok_nb.claims import (Claim, Evidence, Ledger, NotTested, as_frozen, by_seed, departures, gather, holm, ledger, min_power,
    min_seeds, over_seeds, paired, share_of_seeds)
from grok_nb.intervals import Interval


def run_table(**fidelity_seeds):
    rows = [(f"{f}-{p}-{s}", "toy", p, f, s) for f, n in fidelity_seeds.items() for p in ("many", "few") for s in range(n)]
    return pd.DataFrame(rows, columns=["run", "study", "preset", "fidelity", "seed"])


def tables_of(runs, value):
    rows = [dict(run=r.run, step=step, tokens=step, probe="accuracy", set="ood", metric="accuracy", value=value(r))
            for r in runs.itertuples() for step in (0, 100)]
    return dict(runs=runs, accuracy=pd.DataFrame(rows, columns=["run", "step", "tokens", "probe", "set", "metric", "value"]))


def last(rows): return rows.value.iloc[-1]
def claim(effect=None, seeds=10, interval=None, **kw):
    if effect is None: test = lambda t: over_seeds(by_seed(t, "accuracy", last, preset="many"), "accuracy")
    else: test = lambda t: Evidence(effect, interval, "accuracy", seeds)
    return Claim("c", "It holds.", "a paper", test, **kw)


TABLES = tables_of(run_table(demo=10), lambda r: (.8 if r.preset == "many" else .1) + .01 * (r.seed - 4.5))


@pytest.mark.parametrize("interval, above, below", [
    ((.1, .5), "supported", "not supported"), ((-.5, -.1), "not supported", "supported"), ((-.1, .1), "inconclusive", "inconclusive"),
    ((0, .1), "inconclusive", "inconclusive"), ((0, 0), "not supported", "not supported"), ((.1, np.inf), "supported", "not supported"),
    ((-np.inf, np.inf), "inconclusive", "inconclusive"), ((np.nan, .1), "inconclusive", "inconclusive")])
def test_the_interval_decides(interval, above, below):
    for shift in (0, .25):
        moved = tuple(x + shift for x in interval)
        effect = float(np.clip(np.nan_to_num(moved), -1, 1).mean())
        assert claim(effect, interval=moved, threshold=shift).judge(TABLES).verdict == above
        assert claim(effect, interval=moved, threshold=shift, holds="below").judge(TABLES).verdict == below


def test_a_verdict_says_where_the_interval_lies():
    for interval, reason in (((.3, .5), "the interval lies above 0.25"), ((.1, .2), "the interval lies below 0.25"), ((.1, .3), "0.25 lies within the interval"),
                             ((.25, .5), "0.25 lies within the interval"), ((.25, .25), "exactly 0.25")):
        for holds in ("above", "below"): assert claim(.25, interval=interval, threshold=.25, holds=holds).judge(TABLES).reason == reason


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(-10, 10), st.integers(6, 50))
def test_the_two_sides_are_mirror_images(low, width, threshold, seeds):
    interval = (low, low + width)
    verdicts = [claim(low, seeds, interval, threshold=threshold, holds=h).judge(TABLES).verdict for h in ("above", "below")]
    exact = low == low + width == threshold
    swap = {"supported": "not supported", "not supported": "supported", "inconclusive": "inconclusive"}
    assert verdicts[1] == (verdicts[0] if exact else swap[verdicts[0]])


@pytest.mark.parametrize("seeds", [0, 1, 2, 5])
def test_fewer_than_six_seeds_decide_nothing(seeds):
    assert claim(.9, 6, (np.nan, .1)).judge(TABLES).reason == claim(np.nan, 6, (.2, .4)).judge(TABLES).reason == "no interval"
    for interval in ((.9, .91), (-.91, -.9)):
        v = claim(.9, seeds, interval).judge(TABLES)
        assert v.verdict == "inconclusive" and "6 seeds" in v.reason
    assert claim(.9, 6, (.9, .91)).judge(TABLES).verdict == "supported"


def test_what_is_missing_is_not_tested_with_the_reason():
    no = lambda t: (_ for _ in ()).throw(NotTested("nothing to see"))
    cases = {
        "no runs": claim().judge(None), "needs the table geometry": claim(needs="geometry").judge(TABLES),
        "needs layer in the table accuracy": claim(needs=dict(accuracy=["set", "layer"])).judge(TABLES),
        "no run with preset=many": claim(needs=["accuracy"]).judge(tables_of(TABLES["runs"][TABLES["runs"].preset == "few"], lambda r: 0)),
        "needs the table accuracy": claim(needs=["accuracy"]).judge(dict(runs=TABLES["runs"])),
        "no evidence at fidelity paper": claim().judge(TABLES, "paper"), "no run": claim().judge(dict(runs=TABLES["runs"][:0])),
        "nothing to see": Claim("c", "s", "p", no).judge(TABLES)}
    for reason, v in cases.items(): assert v.verdict == "not tested" and reason in v.reason and v.evidence is None, v


def test_a_ledger_says_on_which_side_a_claim_holds():
    book = ledger([claim(threshold=.5), claim_named("below", threshold=-1.5, holds="below")], TABLES)
    assert book.holds.tolist() == ["> 0.5", "< -1.5"] and book.seeds.tolist() == [10, 0] and book.effect[0] == pytest.approx(.8)


def test_errors_in_a_test_are_not_hidden():
    with pytest.raises(ZeroDivisionError): Claim("c", "s", "p", lambda t: 1 / 0).judge(TABLES)
    with pytest.raises(TypeError, match="must return Evidence"): Claim("c", "s", "p", lambda t: .5).judge(TABLES)


def test_fidelities_are_not_mixed():
    tables = tables_of(run_table(smoke=7, demo=6, paper=1), lambda r: dict(smoke=-.5, demo=.5, paper=.9)[r.fidelity] + .01 * r.seed)
    each = {v.fidelity: (v.verdict, v.evidence.seeds) for v in claim().judge_each(tables)}
    assert each == dict(paper=("inconclusive", 1), demo=("supported", 6), smoke=("not supported", 7))
    assert claim().judge(tables).fidelity == "paper" and claim().judge(tables, "demo").verdict == "supported"
    only_demo = Claim("c", "s", "p", lambda t: over_seeds({r.seed: 1. for r in t["runs"].itertuples() if r.fidelity == "demo"}))
    assert only_demo.judge(tables).fidelity == "demo"
    assert list(ledger([claim()], tables).fidelity) == ["paper", "demo", "smoke"]


def test_one_long_table_does_as_well():
    long = TABLES["accuracy"].merge(TABLES["runs"], on="run")
    assert set(gather(long)) == {"accuracy", "runs"} and len(gather(long)["runs"]) == 20
    assert claim().judge(long).row() == claim().judge(TABLES).row()
    with pytest.raises(InputError, match="no column 'study'"): gather(TABLES["accuracy"])
    with pytest.raises(InputError, match="probe"): gather(TABLES["runs"])


def test_by_seed_refuses_what_would_bias_it():
    twice = pd.concat([TABLES["runs"], TABLES["runs"].assign(run=lambda r: r.run + "-again")])
    doubled = dict(runs=twice, accuracy=pd.concat([TABLES["accuracy"], TABLES["accuracy"].assign(run=lambda t: t.run + "-again")]))
    with pytest.raises(InputError, match="several runs of one seed"): by_seed(doubled, "accuracy", last, preset="many")
    with pytest.raises(InputError, match="never reached"): by_seed(TABLES, "accuracy", lambda t: None, preset="many")
    with pytest.raises(InputError, match="did you mean 'preset'"): by_seed(TABLES, "accuracy", last, presets="many")
    with pytest.raises(NotTested): by_seed(TABLES, "accuracy", last, preset="other")


def test_paired_uses_common_seeds():
    assert paired({0: 1., 1: 2., 2: 5.}, {1: 3., 2: 9., 7: 0.}) == {1: 1., 2: 4.}
    assert paired({0: Interval(100, 200)}, {0: Interval(500, np.inf)}) == {0: Interval(300, np.inf)}
    with pytest.raises(NotTested): paired({0: 1}, {1: 1})


@pytest.mark.parametrize("n, least", [(3, 1), (6, .95), (10, .95)])
def test_over_seeds_covers_the_median(n, least):
    draws = np.random.default_rng(0).standard_normal((1000, n))
    inside = np.mean([lo <= 0 <= hi for lo, hi in (over_seeds(dict(enumerate(d))).interval for d in draws)])
    assert least - .01 <= inside


def test_a_true_null_is_rarely_called_either_way():
    draws = np.random.default_rng(1).standard_normal((400, 6))
    runs = dict(runs=TABLES["runs"])
    verdicts = pd.Series([Claim("c", "s", "p", lambda t: over_seeds(dict(enumerate(d)))).judge(runs).verdict for d in draws])
    counts = verdicts.value_counts(normalize=True)
    assert .002 <= counts["supported"] <= .03 and .002 <= counts["not supported"] <= .03 # 1/64 each


@pytest.mark.filterwarnings("error")
def test_over_seeds_of_intervals_and_open_ends():
    exact, two = over_seeds(dict(enumerate([100., 140., 120., 110., 130., 150., 90.]))), over_seeds({4: 1., 9: 3.})
    assert (exact.effect, exact.interval) == (120, (90, 150)) and (two.effect, two.seeds, two.interval) == (2, 2, (-np.inf, np.inf))
    assert over_seeds({0: 5.}).interval == (-np.inf, np.inf) and Evidence(1, (.5, 2)).seeds == 0
    wide = over_seeds({i: Interval(x - 20, x + 20) for i, x in enumerate([100., 140., 120., 110., 130., 150., 90.])})
    assert wide.effect == exact.effect and np.allclose(wide.interval, np.add(exact.interval, (-20, 20)))
    came = {i: Interval(1000, 1100) for i in range(5)}
    late = over_seeds(came | {5: Interval(1200, np.inf)})
    assert late.effect == 1050 and late.interval == (1000, np.inf) and late.note == "1 of 6 seeds open"
    bound = over_seeds({0: Interval(1000, 1100)} | {i: Interval(1200, np.inf) for i in range(1, 6)})
    assert bound.effect == 1200 and bound.note == "5 of 6 seeds open: the effect is a bound"
    early = over_seeds({i: -x for i, x in (came | {5: Interval(1200, np.inf)}).items()})
    assert early.interval == (-np.inf, -1000) and early.effect == -late.effect
    assert np.isnan(over_seeds({i: Interval(-np.inf, np.inf) for i in range(3)}).effect)
    with pytest.raises(InputError, match="not a number"): over_seeds({0: 1, 1: np.nan})
    for no_seed in (over_seeds, share_of_seeds):
        with pytest.raises(NotTested, match="no seed has a value"): no_seed({})


def test_share_of_seeds_is_exact():
    e = share_of_seeds({0: True, 1: True, 2: True, 3: False})
    for k in range(5):
        for p in (.1, .5, .9): assert share_of_seeds({i: i < k for i in range(4)}).p_value(p) <= 1.0001*min(1, 2*stats.binomtest(k, 4, p, "less").pvalue)
    assert e.effect == .75 and np.allclose(e.interval, (.194120, .993691), atol=1e-6) and e.seeds == 4


def test_the_sign_test_by_hand():
    "Seven values of which six lie on one side: heads at least six times of seven, or at most once; who lies at the threshold is on neither."
    for values in ((0, 1, 2, 3, 4, 5, 6), (0, -1, -2, -3, -4, -5, -6)):
        e = over_seeds(dict(enumerate(values)))
        assert e.p_value(0) == pytest.approx(2*8/128) and e.p_value(values[3]) == 1 and e == over_seeds(dict(enumerate(values))) and "partial" not in repr(e)
    some = dict(enumerate([True, True, False]))
    assert share_of_seeds(some).p_value(.5) == 1 and share_of_seeds(some) == share_of_seeds(some)


@pytest.mark.parametrize("effect, interval, seeds, said", [
    (.1234, (-np.inf, np.inf), 6, "0.12 steps"), (np.nan, (-np.inf, 3), 6, "? [3 or less] steps"), (250.4, (99.96, np.inf), 6, "250 [100 or more] steps"),
    (1, (0, 1234.6), 1, "1 [0, 1235] steps"), (-99.4, (-1234.6, -.01), 6, "-99 [-1235, -0.01] steps"), (1, (0, 2), 0, "")])
def test_amounts_as_people_read_them(effect, interval, seeds, said):
    book = ledger([Claim("c", "s", "p", lambda t: Evidence(effect, interval, "steps", seeds))], TABLES)
    [row] = book.readable().to_dict("records")
    assert (row["effect"], row["seeds"], row["power"], row["why"]) == (said, str(seeds or ""), "", book.reason[0])
    about = f"{said}, {seeds} seed{'s'*(seeds != 1)}, demo; " if seeds else ""
    assert book.text().endswith(f" {row['verdict']}: c ({about}{row['why']})\n1 {row['verdict']}")
    assert (f">{seeds}</td>" in book._repr_html_()) == bool(seeds) and ledger([]).columns.tolist() == book.columns.tolist()
    assert list(row) == ["claim", "statement", "paper", "effect", "seeds", "power", "fidelity", "verdict", "why"]


@pytest.mark.promise("injection")
def test_ledger_is_a_frame_and_escapes_what_it_shows(tmp_path):
    evil = "<script>alert('x')</script>"
    bad = Claim(evil, evil, evil, lambda t: Evidence(1, (.5, 2), evil, 6, evil))
    book = ledger([bad, claim(), claim_named("later", needs=["absent"])], TABLES)
    html = book._repr_html_()
    assert "<script" not in html and html.count("&lt;script&gt;") == 5 # name, statement, paper, unit, note
    assert isinstance(book[book.verdict == "supported"], Ledger) and book.summary() == "2 supported, 1 not tested"
    assert "absent" in book.text() and len(book.text().splitlines()) == 4
    book.to_parquet(tmp_path/"ledger.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path/"ledger.parquet"), pd.DataFrame(book))
    assert "verdict" in book[["verdict"]]._repr_html_() and ledger([])._repr_html_()
    with pytest.raises(InputError, match="two are called c"): ledger([claim(), claim()])


def claim_named(name, **kw): return Claim(name, "It holds.", "a paper", lambda t: (_ for _ in ()).throw(NotTested("unasked")), **kw)


def test_mistakes_are_one_line():
    with pytest.raises(InputError, match="did you mean 'above'"): claim(holds="abov")
    with pytest.raises(InputError, match="did you mean 'demo'"): claim().judge(TABLES, "demos")
    with pytest.raises(InputError, match="did you mean 'smoke'"): claim().judge(TABLES | dict(runs=TABLES["runs"].assign(fidelity="smok")))


# ---- claims judged together ----

def seeded(name, values, **kw): return Claim(name, "It holds.", "a paper", lambda t: over_seeds(dict(enumerate(values))), **kw)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_against_its_definition(p):
    order, ours = np.argsort(p, kind="stable"), holm(p)
    for alpha in (.01, .05, .2):
        rejected = set()
        for i, k in enumerate(order): # step down until the first that fails
            if p[k]*(len(p) - i) > alpha: break
            rejected.add(int(k))
        assert {i for i in range(len(p)) if ours[i] <= alpha} == rejected
    assert len(holm([])) == 0 and holm([.9, .2, .8]).tolist() == [1, pytest.approx(.6), 1]


def test_what_holds_alone_need_not_hold_among_others():
    nine = [.1 + .01*i for i in range(9)] + [-1.] # nine of ten above: p = .021
    one = seeded("nine of ten", nine)
    noise = [seeded(f"noise {i}", np.r_[1:6, -5:0] + .1*i) for i in range(4)]
    assert one.judge(TABLES).verdict == "supported" and one.judge(TABLES).p == pytest.approx(22/1024)
    book = ledger([one, *noise], TABLES).set_index("claim")
    assert book.verdict["nine of ten"] == "inconclusive" and "not among 5 claims" in book.reason["nine of ten"] and book.p["nine of ten"] == pytest.approx(5*22/1024)
    assert ledger([seeded("ten of ten", range(1, 11)), *noise], TABLES).verdict[0] == "supported"
    few = [seeded(f"few {i}", range(1, 6)) for i in range(9)] # can decide nothing, and so cost nothing
    assert ledger([one, *few], TABLES).verdict[0] == "supported"


def test_ledgers_of_true_nulls_are_rarely_decided():
    g, called, runs = np.random.default_rng(0), 0, dict(runs=TABLES["runs"])
    for _ in range(50):
        book = ledger([seeded(str(i), g.normal(size=10)) for i in range(10)], runs) # uncorrected one ledger in five would be
        called += book.verdict.isin(["supported", "not supported"]).any()
    assert called/50 <= .05 + .05


def test_fidelities_are_families_of_their_own():
    tables = tables_of(run_table(smoke=10, demo=10), lambda r: .5 + .01*r.seed)
    book = ledger([claim(threshold=.4), claim_of_preset("few")], tables)
    assert book.p.round(6).tolist() == [round(2*2/1024, 6)]*4


def claim_of_preset(preset): return Claim(preset, "s", "p", lambda t: over_seeds(by_seed(t, "accuracy", last, preset=preset)), threshold=.4)


# ---- power ----

SPREAD = np.linspace(-1, 1, 10)


@pytest.mark.parametrize("centre, planted, verdict", [
    (2, 5, "supported"), (-2, 5, "not supported"), (-2, .5, "cannot be told at this scale"), (.3, .5, "cannot be told at this scale"),
    (.3, 5, "inconclusive"), (2, .5, "supported"), (.3, None, "inconclusive"), (-2, None, "not supported")])
def test_nothing_is_said_against_a_claim_without_power(centre, planted, verdict):
    for sign, holds in ((1, "above"), (-1, "below")):
        found = seeded("c", sign*(SPREAD + centre), planted=None if planted is None else sign*planted, holds=holds).judge(TABLES)
        assert found.verdict == verdict, (found, holds)
        assert np.isnan(found.power) if planted is None else (found.power >= min_power) == (planted == 5)


@pytest.mark.parametrize("planted", [.1, .5, 1., 3.])
def test_power_is_the_share_of_planted_samples_that_are_found(planted):
    values = np.random.default_rng(3).normal(7, 1, 10)
    said = over_seeds(dict(enumerate(values))).power(planted, 0, "above", .95)
    g = np.random.default_rng(4)
    drawn = (over_seeds(dict(enumerate(g.choice(values - np.median(values) + planted, 10)))).interval[0] > 0 for _ in range(800))
    assert abs(np.mean(list(drawn)) - said) < .06


def test_power_of_shares_is_that_of_draws():
    e = share_of_seeds({i: i < 7 for i in range(10)})
    for planted, threshold, holds in ((.95, .5, "above"), (.8, .5, "above"), (.1, .5, "below"), (.3, .2, "above")):
        def found(k):
            low, high = share_of_seeds({i: i < k for i in range(10)}).interval
            return low > threshold if holds == "above" else high < threshold
        exact = sum(stats.binom.pmf(k, 10, planted) for k in range(11) if found(k))
        assert e.power(planted, threshold, holds, .95) == pytest.approx(exact)


def test_power_falls_with_the_claims_judged_together():
    alone = seeded("c", SPREAD, planted=1.).judge(TABLES).power
    among = ledger([seeded(str(i), SPREAD, planted=1.) for i in range(9)], TABLES).power
    assert set(among) == {among[0]} and among[0] < alone


@pytest.mark.parametrize("p, parts", [([.5], [1]), ([.01], [1]), ([.001, .5, .5], [3, 2, 2]), ([.001, .001], [1, 1]), ([.3, .3], [2, 2])])
def test_power_is_asked_at_the_level_that_the_undecided_share(p, parts):
    "A twentieth is shared by those that Holm's rule leaves open; who is decided shares it with them too."
    def of(name, p): return Claim(name, "s", "p", lambda t: Evidence(1, (.5, 2), "", 6, p_value=lambda threshold: p, power=lambda *given: given[-1]), planted=1)
    assert ledger([of(f"c{i}", each) for i, each in enumerate(p)], TABLES).power.tolist() == pytest.approx([1 - .05/n for n in parts])


def test_a_planted_effect_lies_where_the_claim_holds():
    for kw in (dict(planted=0), dict(threshold=.5, planted=.4), dict(threshold=.5, planted=.6, holds="below")):
        with pytest.raises(InputError, match="planted: .* is not (above|below) the threshold"): claim(**kw)


# ---- written down ----

def all_claims(study): return [*studies[study].claims(), *studies[study].sweep_claims()]


@pytest.mark.parametrize("study", wings)
def test_claims_are_as_they_were_written_down(study):
    assert departures(all_claims(study)) == []
    for c in all_claims(study):
        assert all(c.record[name] for name in ("statistic", "reason", "null")) and c.record["seeds"] in ([10, 29], [20, 25], [40, 59]) and c.planted is not None, c.name
        for old in c.record["history"]: assert {"until", "why"} < set(old) and set(old) - {"until", "why"} <= set(c.record), c.name


def test_a_claim_that_was_dropped_is_missed():
    import json
    from importlib.resources import files
    book = json.loads(files("grok_nb").joinpath("frozen_claims.json").read_text(encoding="utf-8"))
    assert {study: set(rows) for study, rows in book.items()} == {study: {c.name for c in all_claims(study)} for study in book}


def test_a_changed_claim_is_named():
    late = next(c for c in all_claims("modular") if c.name == "late")
    from dataclasses import replace
    for name, value in dict(threshold=-1, statement="Another.", holds="below", planted=201).items():
        kw = dict(planted=-1) if name == "holds" else {}
        lines = departures([replace(late, **{name: value}, **kw)])
        assert any(line.startswith(f"late: {name} is {value!r}, written down is") for line in lines)
    assert departures([claim()]) == ["c: not written down"] and departures(as_frozen("modular", [claim()])) == ["c: not written down"]


@pytest.mark.parametrize("study", wings)
def test_names_of_claims_are_known_without_loading_them(study):
    from grok_nb.claims import claim_names
    assert claim_names(studies[study]) == [c.name for c in studies[study].claims()]
    own = type("Own", (), dict(name="own", grids={}, claims=lambda self: [claim()]))()
    assert claim_names(own) == ["c"]
