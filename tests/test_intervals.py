"Intervals over seeds: exact whatever the seeds are like, and the same as scipy's."
import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy import stats

from grok_nb import InputError
from grok_nb.claims import share_of_seeds
from grok_nb.intervals import Interval, ends, kaplan_meier, limits_in_words, mean_interval, median_in_words, median_interval, order_rank


@pytest.mark.parametrize("n", [*range(2, 31), 100])
@pytest.mark.parametrize("level", [.8, .95])
def test_median_limits_are_those_of_the_quantile_test(n, level):
    values = np.random.default_rng(n).normal(size=n)
    theirs = stats.quantile_test(values, p=.5).confidence_interval(level)
    ours = [x if np.isfinite(x) else np.nan for x in median_interval(values, level)]
    assert np.allclose(ours, list(theirs), equal_nan=True) # where seeds are too few, theirs is not a number


def test_the_rank_is_the_largest_that_keeps_the_level():
    for n in range(1, 40):
        for level in (.5, .8, .9375, .95, .99):
            r, tail = order_rank(n, level), (1 - level)/2
            assert (r == 0 or stats.binom.cdf(r - 1, n, .5) <= tail + 1e-12) and stats.binom.cdf(r, n, .5) > tail
    assert order_rank(5, .9375) == 1 and order_rank(5) == 0 and order_rank(6) == 1


def test_open_times_stay_open():
    came, never = [Interval(100*i, 100*i + 100) for i in range(8)], Interval(900, np.inf)
    assert median_interval([*came, never]) == (100, 800) and median_interval([*came, never, never]) == (100, np.inf)
    assert median_interval([-never]*6) == (-np.inf, -900) and median_interval([never]*6) == (900, np.inf)
    assert ends([1, never]).tolist() == [[1, 900], [1, np.inf]] and ends([]).shape == (2, 0)
    for wrong in ([], [np.nan, 1.]):
        with pytest.raises(InputError, match="values: numbers or Interval"): median_interval(wrong)
    for ask in (median_interval, mean_interval):
        with pytest.raises(InputError, match="level: 1 is not between"): ask([1., 2., 3.], level=1)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 5)), min_size=6, max_size=15))
def test_knowing_less_of_a_time_never_narrows(pairs):
    exact, coarse = median_interval([x for x, _ in pairs]), median_interval([Interval(x - w, x + w) for x, w in pairs])
    assert coarse[0] <= exact[0] <= exact[1] <= coarse[1]


def test_students_interval_is_that_of_scipy():
    draws = np.random.default_rng(0).normal(size=(5, 7))
    theirs = stats.ttest_1samp(draws, 0, axis=1).confidence_interval(.9)
    assert np.allclose(mean_interval(draws, .9), theirs) and np.allclose(np.transpose([mean_interval(d, .9) for d in draws]), theirs)
    assert mean_interval([3.]) == (-np.inf, np.inf)


def arriving(share): return lambda g, n: np.where(g.random(n) < share, .8, .1) + .01*g.normal(size=n)
def times(g, n): return g.lognormal(np.log(1000), .3, n)


WORLDS = { # a world → draws of it, its median, and what is seen of a draw
    "normal": (lambda g, n: g.normal(size=n), 0, float),
    "seven of ten": (arriving(.7), .8 + .01*stats.norm.ppf(2/7), float),
    "nine of ten": (arriving(.9), .8 + .01*stats.norm.ppf(4/9), float),
    "skewed": (lambda g, n: g.lognormal(size=n), 1, float),
    "ceiling": (lambda g, n: np.minimum(1, g.normal(.99, .05, n)), .99, float),
    "grid": (times, 1000, lambda t: Interval(t//200*200, t//200*200 + 200)),
    "never": (times, 1000, lambda t: t if t <= 1050 else Interval(1050, np.inf)),
    "grid, never": (times, 1000, lambda t: Interval(t//200*200, t//200*200 + 200) if t <= 1200 else Interval(1200, np.inf)),
}


def share_covered(rule, world, n, draws):
    draw, truth, seen = WORLDS[world]
    g = np.random.default_rng([n, list(WORLDS).index(world)])
    found = [rule([seen(x) for x in draw(g, n)]) for _ in range(draws)]
    return np.mean([lo <= truth <= hi for lo, hi in found])


@pytest.mark.parametrize("world", WORLDS)
def test_the_median_is_covered(world):
    for n in (3, 5, 6, 10, 20): assert share_covered(median_interval, world, n, 400) > .93


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_median_is_covered_many_draws(world):
    for n in (3, 5, 6, 7, 8, 9, 10, 15, 20): assert share_covered(median_interval, world, n, 5000) > .94


@pytest.mark.slow
@pytest.mark.parametrize("world", ["grid", "never", "grid, never"])
def test_the_median_of_kaplan_meier_is_covered(world):
    "Three runs of exact times, of which every other one never arrives, are too few: .87 of such intervals hold it."
    for n in (3, 5, 10, 20):
        least = .82 if (world, n) == ("never", 3) else .91
        assert share_covered(lambda e: kaplan_meier(e).interval, world, n, 250) > least


def test_the_mean_is_not_where_not_all_arrive():
    "What the claims were judged by before: a warning that stays."
    draw = arriving(.9)
    g = np.random.default_rng(0)
    inside = np.mean([lo <= .73 <= hi for lo, hi in (mean_interval(draw(g, 3)) for _ in range(1000))])
    assert inside < .5


@pytest.mark.parametrize("p", [.5, .7, .9])
def test_a_share_is_covered(p):
    for n in (3, 5, 10, 20):
        cover = {k: share_of_seeds({i: i < k for i in range(n)}).interval for k in range(n + 1)}
        assert sum(stats.binom.pmf(k, n, p) for k, (lo, hi) in cover.items() if lo <= p <= hi) >= .95 # exact, no draws


@given(st.lists(st.tuples(st.integers(-9, 9) | st.just(-np.inf), st.integers(0, 9) | st.just(np.inf)), min_size=1, max_size=12))
def test_nothing_is_infinite_in_words(pairs):
    values = [Interval(lo, max(lo, 0) + width) for lo, width in pairs]
    said, (low, high) = median_in_words(values, 0), median_interval(values)
    assert "inf" not in said and "nan" not in said and "  " not in said and said == said.strip()
    assert said.endswith("[too few seeds]") == (len(values) < 6)
    assert ("or more]" in said) == (np.isfinite(low) and np.isinf(high)) and ("or less]" in said) == (np.isinf(low) and np.isfinite(high))
    assert limits_in_words((-np.inf, np.inf)) == "" and limits_in_words((1, 2)) == "[1.00, 2.00]"
