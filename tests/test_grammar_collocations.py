"""Words that belong together: chance is one half whatever the words; exposure by lot, without bias."""

import re

import numpy as np
import pandas as pd
import pytest

from grok_nb import InputError
from grok_nb.grammar.collocations import dose_curves, exposure_effect, neighbours, word_pairs


def text_of(tmp_path, text):
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_neighbours_are_counted_as_a_naive_reader_does(tmp_path):
    rng = np.random.default_rng(0)
    words = "Анна Каренина ёж the don't ’tis un homme l’eau 12 - , .".split()
    text = " ".join(rng.choice(words, 4000)).replace(" - ", "  ")
    found = neighbours(text_of(tmp_path, text)).set_index(["first", "second"])["count"]
    word = r"[^\W\d_]+(?:['’][^\W\d_]+)*"
    naive = pd.Series(re.findall(rf"(?<![^\W\d_])({word}) (?=({word}))", text)).value_counts()
    assert found.sum() > 1000
    assert found.sort_index().to_dict() == naive.sort_index().to_dict()


@pytest.fixture(scope="module")
def made_pairs():
    "Two hundred pairs of words of each sort, known from a table of neighbours."
    rng = np.random.default_rng(1)
    letters = np.array([*"abcdefghijklmnop"])

    def words(n):
        return sorted({"".join(rng.choice(letters, 6)) for _ in range(2 * n)})[:n]

    first, second = words(200), [w + end for w, end in zip(words(200), rng.choice(["s", "ed"], 200))]
    sorts = [(first, second), ([w.title() for w in first], [w.title() for w in second])]
    rows = [
        dict(
            first=a,
            second=b,
            count=rng.integers(3, 40),
            first_count=50,
            second_count=rng.integers(30, 999),
            pmi=6,
        )
        for both in sorts
        for a, b in zip(*both)
    ]
    return word_pairs(pd.DataFrame(rows).astype(dict(pmi=float)))


@pytest.mark.parametrize("paradigm", ["collocation", "name"])
def test_chance_is_one_half_for_whatever_knows_single_words(made_pairs, paradigm):
    pairs = made_pairs.query("paradigm == @paradigm")
    good, bad = (pairs[f"sentence_{side}"].str.split().str[-1] for side in ("good", "bad"))
    assert len(pairs) > 190
    assert sorted(good) == sorted(bad)
    assert (good != bad).all()
    assert (good.str[-2:].str.lower() == bad.str[-2:].str.lower()).all()
    worth = {word: np.random.default_rng(2).normal() for word in good}
    worth = dict(zip(worth, np.random.default_rng(3).normal(size=len(worth))))
    right = np.mean([worth[g] > worth[b] for g, b in zip(good, bad)])
    assert 0.35 < right < 0.65


def test_a_phrase_that_the_text_has_is_never_the_wrong_one():
    rows = [("golf", "links"), ("apple", "trees"), ("apple", "links")]
    table = pd.DataFrame(rows, columns=["first", "second"])
    table = table.assign(count=[9, 9, 1], first_count=99, second_count=[99, 98, 99], pmi=6.0)
    pairs = word_pairs(table, ending=1)
    assert pairs["phrase_bad"].tolist() == ["golf trees"]


def by_lot(rng, seeds=3, pairs=150, worth=0.1):
    easy = rng.uniform(size=pairs)
    met = rng.uniform(size=(seeds, pairs)) < 0.15 + 0.7 * easy
    right = rng.uniform(size=(seeds, pairs)) < 0.3 + 0.4 * easy + worth * met
    parts = [
        dict(
            seed=s,
            pair=range(pairs),
            phrases=np.arange(pairs) // 2,
            dose_at_end=met[s] * 2,
            right=right[s] * 1.0,
        )
        for s in range(seeds)
    ]
    return pd.concat(map(pd.DataFrame, parts), ignore_index=True).assign(paradigm="p", step=0)


def test_the_effect_is_that_of_least_squares_with_a_constant_for_each_pair_and_seed():
    table = by_lot(np.random.default_rng(4))
    met = table["dose_at_end"] > 0
    used = table[met.groupby(table["pair"]).transform("nunique") == 2]
    dummies = pd.get_dummies(used[["pair", "seed"]].astype(str)).to_numpy(float)
    design = np.column_stack([used["dose_at_end"] > 0, dummies])
    slope = np.linalg.lstsq(design, used["right"].to_numpy(), rcond=None)[0][0]
    found = exposure_effect(table).loc["p"]
    assert found["effect"] == pytest.approx(slope, abs=1e-10)
    assert found["pairs"] == used["pair"].nunique()


def test_the_effect_of_a_doubling_is_found_and_paradigms_are_taken_together():
    rng = np.random.default_rng(8)
    dose = rng.poisson(3 * rng.uniform(size=200), (4, 200))
    right = rng.uniform(size=(4, 200)) < 0.3 + 0.1 * np.log2(1 + dose)
    parts = [
        dict(seed=s, pair=range(200), phrases=range(200), dose_at_end=dose[s], right=right[s] * 1.0)
        for s in range(4)
    ]
    table = pd.concat(map(pd.DataFrame, parts)).assign(step=0)
    table["paradigm"] = np.where(table["pair"] < 80, "a", "b")
    found = exposure_effect(table, doubling=True)
    assert found.index.tolist() == ["a", "b", "all"]
    assert found["pairs"].loc[["a", "b"]].sum() == found.loc["all", "pairs"] > 150
    assert found.loc["all", "low"] < 0.1 < found.loc["all", "high"] < 0.2


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    found = pd.concat([exposure_effect(by_lot(rng)) for _ in range(120)])
    covered = ((found["low"] <= 0.1) & (0.1 <= found["high"])).mean()
    assert 0.91 < covered < 0.985
    assert found["effect"].mean() == pytest.approx(0.1, abs=0.015)


def test_nothing_is_found_where_exposure_is_worth_nothing():
    rng = np.random.default_rng(6)
    found = pd.concat([exposure_effect(by_lot(rng, worth=0.0)) for _ in range(120)])
    assert 0.01 < (found["p"] < 0.05).mean() < 0.09


def test_curves_follow_what_was_met_so_far():
    rows = [(0, 0, 0.0), (1, 1, 1.0), (2, 9, 1.0)]
    parts = [pd.DataFrame(rows, columns=["step", "dose", "right"]).assign(seed=s) for s in (0, 1)]
    curves = dose_curves(pd.concat(parts).assign(paradigm="p", pair=0))
    assert curves[["met", "step", "accuracy", "seeds"]].values.tolist() == [
        ["0", 0, 0.0, 2],
        ["1", 1, 1.0, 2],
        ["8–15", 2, 1.0, 2],
    ]


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(InputError, match="there are no words"):
        neighbours(text_of(tmp_path, "1 2 3"))
    with pytest.raises(InputError, match="two seeds or more"):
        exposure_effect(by_lot(np.random.default_rng(7), seeds=1))
    with pytest.raises(InputError, match="go together often enough"):
        word_pairs(neighbours(text_of(tmp_path, "a b")))
