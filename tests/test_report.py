"What a report says in words: which curve came first, where a run stands, what is folded away."
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from grok_nb.claims import Claim, Evidence, NotTested, ledger
from grok_nb.evidence import when_in
from grok_nb.see.conclusion import limits, placed, standing, verdicts_added
from grok_nb.see.report import answer, claims_html, table_html

STEPS = np.arange(0, 801, 20)
CURVES = dict(late=dict(probe="p", of="late", metric="accuracy"), early=dict(probe="p", of="early", metric="accuracy"))
STUDY = SimpleNamespace(headline_name="late", before="early", unit="share right", headline=CURVES["late"])


def told(study=STUDY, **curves):
    "What is said of a run with these curves: each (steps, values) between which it is straight."
    parts = [pd.DataFrame(dict(step=STEPS, probe="p", of=name, metric="accuracy", value=np.interp(STEPS, *points)
             + np.random.default_rng(1).normal(0, .01, len(STEPS)))) for name, points in curves.items()]
    [line] = answer(when_in(pd.concat(parts), CURVES, "run"), study)
    return line


def test_the_answer_begins_with_what_came_first():
    line = told(early=([100, 160], [.5, 1]), late=([400, 460], [.5, .9]))
    low, high = map(int, re.search(r"^run: the rise of late comes (\d+) to (\d+) steps after the rise of early \(half-way\)", line).groups())
    assert low <= 300 <= high and "begins when that is complete" in line and "Share right rises from 0.5" in line


def test_the_answer_says_if_the_other_does_not_follow():
    assert "the rise of early comes, and no rise of late after it" in told(early=([100, 160], [.5, 1]), late=([0, 800], [.5, .5]))


def test_a_fall_from_the_start_is_no_headline():
    line = told(SimpleNamespace(**vars(STUDY) | dict(before="")), late=([40, 120], [.22, .12]))
    assert "falls" not in line and "no lasting rise found in 800 steps (share right 0.12)" in line


def test_a_rise_in_two_stages_is_told_as_two():
    line = told(SimpleNamespace(**vars(STUDY) | dict(before="")), late=([200, 260, 380, 440], [0, .45, .45, .98]))
    assert "rises in 2 stages: from" in line and line.count("half-way between") == 2 and "; then from 0.4" in line


@pytest.mark.parametrize("own, word", [(0, "lower than all 4, outside"), (1.5, "lower than most (3 of 4)"), (2.5, "in the midst"), (9, "higher than all 4")])
def test_standing(own, word): assert standing(own, [1, 2, 3, 4]).startswith(word)


def test_a_run_is_placed_by_when_it_rises_and_where_it_ends():
    curve = lambda at, top: pd.Series(np.interp(STEPS, [at, at + 40], [0, top]), STEPS)
    judged = {seed: curve(300 + 20 * seed, .8) for seed in range(8)}
    assert re.search("earlier than all 8.*ends at 0.90: higher than all 8", placed(curve(100, .9), judged))
    assert "it does not rise; 8 of 8 do" in placed(curve(100, 0), judged)


def ask(name, effect, values=None, threshold=0):
    def test(tables):
        if effect is None: raise NotTested("nothing to test it on")
        found = values or {0: effect}
        return Evidence(effect, (effect - .1, effect + .1), "steps", len(found), values=found)
    return Claim(name, f"Claim of {name}.", "ours", test, threshold=threshold)


def runs(*seeds, fidelity="demo"): return dict(runs=pd.DataFrame([dict(run=f"r{s}", study="s", preset="demo", fidelity=fidelity, seed=s) for s in seeds]))


def test_what_is_not_decided_is_folded_away():
    many = dict.fromkeys(range(10), 1.)
    claims = [ask("yes", 1, many), ask("no", -1, many), ask("few", 1), ask("never", None)]
    above, below = claims_html(ledger(claims, runs(*range(10)))).split("<details>")
    assert "✓ supported" in above and "✗ not supported" in above and "few" not in above
    assert "2 claims of which nothing can be said yet: 1 inconclusive, 1 not tested" in below and "Claim of never." in below
    assert "Nothing is decided yet" in claims_html(ledger([ask("never", None)], runs(0)))


def test_what_runs_add_is_on_a_side_or_too_near_to_tell():
    from grok_nb.intervals import Interval
    claims = [ask("yes", 2), ask("no", -1), ask("near", 0, {0: Interval(-50, 50)}), ask("never", None)]
    lines = " ".join(verdicts_added(claims, runs(0), {}, ledger(claims, runs(0))))
    assert lines.startswith("3 of 4 claims have a number here, 1 of them on the claim's side.")
    assert "On the other side: “no” (−1 steps, claimed > 0)." in lines and "Too near to tell: “near”" in lines


def test_limits_name_the_seeds_that_there_are():
    told = limits(runs(0, 1, fidelity="smoke")["runs"])
    assert "2 of demo" in told[0] and any("smoke run" in line for line in told)
    assert len(limits(runs(*range(6), fidelity="paper")["runs"])) == 1


def test_a_table_has_words_for_what_never_came_and_names_every_cell():
    html = table_html(pd.DataFrame({"a time": [np.inf, np.nan], "n_id": [132800, 3], "x": ["<b>", None]}))
    assert ">never<" in html and html.count(">–<") == 2 and ">132,800<" in html and "<b>" not in html and 'data-label="a time"' in html and "inf" not in html
