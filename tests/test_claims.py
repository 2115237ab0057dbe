"Claims: the rules that turn an interval into a verdict, and nothing else into one."
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from grok_nb import InputError
from grok_nb.claims import Claim, Evidence, Ledger, NotTested, by_seed, gather, ledger, over_seeds, paired, share_of_seeds
from grok_nb.intervals import Interval


def run_table(**fidelity_seeds):
    rows = [(f"{f}-{p}-{s}", "toy", p, f, s) for f, n in fidelity_seeds.items() for p in ("many", "few") for s in range(n)]
    return pd.DataFrame(rows, columns=["run", "study", "preset", "fidelity", "seed"])


def tables_of(runs, value):
    rows = [dict(run=r.run, step=step, tokens=step, probe="accuracy", set="ood", metric="accuracy", value=value(r))
            for r in runs.itertuples() for step in (0, 100)]
    return dict(runs=runs, accuracy=pd.DataFrame(rows, columns=["run", "step", "tokens", "probe", "set", "metric", "value"]))


def last(rows): return rows.value.iloc[-1]
def claim(effect=None, seeds=3, interval=None, **kw):
    if effect is None: test = lambda t: over_seeds(by_seed(t, "accuracy", last, preset="many"), "accuracy")
    else: test = lambda t: Evidence(effect, interval, "accuracy", seeds)
    return Claim("c", "It holds.", "a paper", test, **kw)


TABLES = tables_of(run_table(demo=3), lambda r: .8 + .01 * r.seed if r.preset == "many" else .1 + .01 * r.seed)


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


@given(st.floats(-10, 10), st.floats(0, 5), st.floats(-10, 10), st.integers(3, 50))
def test_the_two_sides_are_mirror_images(low, width, threshold, seeds):
    interval = (low, low + width)
    verdicts = [claim(low, seeds, interval, threshold=threshold, holds=h).judge(TABLES).verdict for h in ("above", "below")]
    exact = low == low + width == threshold
    swap = {"supported": "not supported", "not supported": "supported", "inconclusive": "inconclusive"}
    assert verdicts[1] == (verdicts[0] if exact else swap[verdicts[0]])


@pytest.mark.parametrize("seeds", [0, 1, 2])
def test_fewer_than_three_seeds_decide_nothing(seeds):
    assert claim(.9, 3, (np.nan, .1)).judge(TABLES).reason == claim(np.nan, 3, (.2, .4)).judge(TABLES).reason == "no interval"
    for interval in ((.9, .91), (-.91, -.9)):
        v = claim(.9, seeds, interval).judge(TABLES)
        assert v.verdict == "inconclusive" and "3 seeds" in v.reason
    assert claim(.9, 3, (.9, .91)).judge(TABLES).verdict == "supported"


def test_what_is_missing_is_not_tested_with_the_reason():
    no = lambda t: (_ for _ in ()).throw(NotTested("nothing to see"))
    cases = {
        "needs the table runs": claim().judge(None), "needs the table geometry": claim(needs="geometry").judge(TABLES),
        "needs layer in the table accuracy": claim(needs=dict(accuracy=["set", "layer"])).judge(TABLES),
        "no run with preset=many": claim(needs=["accuracy"]).judge(tables_of(TABLES["runs"][TABLES["runs"].preset == "few"], lambda r: 0)),
        "needs the table accuracy": claim(needs=["accuracy"]).judge(dict(runs=TABLES["runs"])),
        "no evidence at fidelity paper": claim().judge(TABLES, "paper"), "no runs": claim().judge(dict(runs=TABLES["runs"][:0])),
        "nothing to see": Claim("c", "s", "p", no).judge(TABLES)}
    for reason, v in cases.items(): assert v.verdict == "not tested" and reason in v.reason and v.evidence is None, v


def test_a_ledger_says_on_which_side_a_claim_holds():
    book = ledger([claim(threshold=.5), claim_named("below", threshold=-1.5, holds="below")], TABLES)
    assert book.holds.tolist() == ["> 0.5", "< -1.5"] and book.seeds.tolist() == [3, 0] and book.effect[0] == pytest.approx(.81)


def test_errors_in_a_test_are_not_hidden():
    with pytest.raises(ZeroDivisionError): Claim("c", "s", "p", lambda t: 1 / 0).judge(TABLES)
    with pytest.raises(TypeError, match="must return Evidence"): Claim("c", "s", "p", lambda t: .5).judge(TABLES)


def test_fidelities_are_not_mixed():
    tables = tables_of(run_table(smoke=4, demo=3, paper=1), lambda r: dict(smoke=-.5, demo=.5, paper=.9)[r.fidelity] + .01 * r.seed)
    each = {v.fidelity: (v.verdict, v.evidence.seeds) for v in claim().judge_each(tables)}
    assert each == dict(paper=("inconclusive", 1), demo=("supported", 3), smoke=("not supported", 4))
    assert claim().judge(tables).fidelity == "paper" and claim().judge(tables, "demo").verdict == "supported"
    only_demo = Claim("c", "s", "p", lambda t: over_seeds({r.seed: 1. for r in t["runs"].itertuples() if r.fidelity == "demo"}))
    assert only_demo.judge(tables).fidelity == "demo"
    assert list(ledger([claim()], tables).fidelity) == ["paper", "demo", "smoke"]


def test_one_long_table_does_as_well():
    long = TABLES["accuracy"].merge(TABLES["runs"], on="run")
    assert set(gather(long)) == {"accuracy", "runs"} and len(gather(long)["runs"]) == 6
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


def test_over_seeds_covers_95_percent_with_three_seeds():
    draws = np.random.default_rng(0).standard_normal((2000, 3))
    inside = np.mean([lo <= 0 <= hi for lo, hi in (over_seeds(dict(enumerate(d))).interval for d in draws)])
    assert .935 <= inside <= .965


def test_a_true_null_is_rarely_called_either_way():
    draws = np.random.default_rng(1).standard_normal((1000, 4))
    verdicts = pd.Series([Claim("c", "s", "p", lambda t: over_seeds(dict(enumerate(d)))).judge(TABLES).verdict for d in draws])
    counts = verdicts.value_counts(normalize=True)
    assert .01 <= counts["supported"] <= .04 and .01 <= counts["not supported"] <= .04


@pytest.mark.filterwarnings("error")
def test_over_seeds_of_intervals_and_open_ends():
    exact, two = over_seeds({0: 100., 1: 140., 2: 120.}), over_seeds({4: 1., 9: 3.})
    assert exact.effect == 120 and (two.effect, two.seeds) == (2, 2) and np.allclose(two.interval, stats.ttest_1samp([1, 3], 0).confidence_interval())
    assert over_seeds({0: 5.}).interval == (-np.inf, np.inf) and Evidence(1, (.5, 2)).seeds == 0
    wide = over_seeds({0: Interval(80, 120), 1: Interval(120, 160), 2: Interval(100, 140)})
    assert wide.effect == exact.effect and np.allclose(wide.interval, np.add(exact.interval, (-20, 20)))
    late = over_seeds({0: Interval(1000, 1100), 1: Interval(1000, 1100), 2: Interval(1200, np.inf)})
    assert late.interval[0] > 0 and late.interval[1] == np.inf and "1 of 3 seeds open" in late.note
    early = over_seeds({0: -Interval(1000, 1100), 1: -Interval(1000, 1100), 2: -Interval(1200, np.inf)})
    assert early.interval == (-np.inf, -late.interval[0]) and early.effect == -late.effect
    assert np.isnan(over_seeds({0: Interval(-np.inf, np.inf), 1: 3, 2: 4}).effect)
    with pytest.raises(InputError, match="not a number"): over_seeds({0: 1, 1: np.nan})
    with pytest.raises(NotTested): over_seeds({})


def test_share_of_seeds_is_exact():
    e = share_of_seeds({0: True, 1: True, 2: True, 3: False})
    assert e.effect == .75 and np.allclose(e.interval, (.194120, .993691), atol=1e-6) and e.seeds == 4


@pytest.mark.promise("injection")
def test_ledger_is_a_frame_and_escapes_what_it_shows(tmp_path):
    evil = "<script>alert('x')</script>"
    bad = Claim(evil, evil, evil, lambda t: Evidence(1, (.5, 2), evil, 3, evil))
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
