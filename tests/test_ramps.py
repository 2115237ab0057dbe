"Ramps: what is found in curves that are neither smooth nor random, to four digits; every claim about time stands on these numbers."
import numpy as np
import pytest

from grok_nb import InputError
from grok_nb.ramps import (ar1_deviance, average_blocks, critical_evidence, find_legs, min_evaluations, noise_p_value, rise_shapes,
                           standardise)
from grok_nb.transitions import transitions


def rough(n, size, rho=0):
    "What looks like noise, the same on every machine."
    e = np.sin(1.3 * np.arange(n)**2 + .4)
    for t in range(1, n): e[t] += rho * e[t - 1]
    return size * e


def bent(n, at, levels, size=.05): return np.interp(np.arange(n), at, levels) + rough(n, size)


CURVES = dict(
    jump=bent(20, [9, 10], [.1, .7]), fall=bent(25, [8, 16], [.9, .3], .1), eight=bent(8, [3, 4], [0, 1]), noise=rough(24, 1.),
    wander=rough(40, 1., .8), outlier=rough(30, .1) + (np.arange(30) == 12), weak=bent(30, [14, 16], [0, .1], .08),
    early=bent(40, [1, 3], [0, 1]), late=bent(30, [24, 27], [.2, .5]), end=bent(30, [26, 29], [0, 1], .02), slow=bent(50, [5, 45], [0, 1], .15),
    bump=bent(40, [8, 11, 25, 30], [.1, .8, .8, .3]), kink=bent(60, [10, 20, 24], [0, .4, 1], .03), two=bent(45, [10, 14, 28, 33], [0, .6, .6, 1.4], .04),
    three=bent(60, [10, 12, 30, 34, 50, 52], [0, 1, 1, 0, 0, 1], .1), stairs=bent(70, [5, 7, 20, 23, 40, 44, 60, 63], [0, 1, 1, 1.5, 1.5, .6, .6, 1.4]),
    dense=bent(300, [100, 160], [0, 1], .2))


def told(y):
    "The p value of the whole; each leg; each transition's times, shape and numbers."
    x, z = 10. * np.arange(len(y)), standardise(average_blocks(np.arange(len(y)), y)[0])
    legs = [f"{a}-{b} {height:.4g} {p:.3g}" for a, b, height, p in find_legs(z, critical_evidence(.025), .2)]
    def times(*intervals): return " ".join(f"{i.lo:g}-{i.hi:g}" for i in intervals)
    seen = [f"{t.direction} {t.shape} {times(t.onset, t.midpoint, t.saturation)} {t.baseline:.4g} {t.plateau:.4g} {t.sharpness:.4g} {t.step_over_ramp:.4g} {t.p_value:.3g} {t.noise:.3g} {t.persistence:g}"
            for t in transitions((x, y))]
    return " | ".join([f"{noise_p_value((x, y)):.4g}", "; ".join(legs) or "no leg", *seen])


REFERENCE = """
jump: 5.089e-08 | 9-10 1.987 5.09e-08 | up abrupt 90-100 90-100 90-100 0.1146 0.6833 9.5 25.86 5.09e-08 0.033 0
fall: 0.001615 | 8-15 -2.148 0.00162 | down smooth 50-100 100-130 130-180 0.9282 0.3085 2.054 -12.77 0.00162 0.0702 0
eight: 3.194e-05 | 3-4 1.997 3.19e-05 | up undecided 30-40 30-40 30-40 0.003752 1.032 3.5 0 3.19e-05 0.0277 0
noise: 0.9976 | no leg
wander: 0.7961 | no leg
outlier: 1 | no leg
weak: 0.2214 | no leg
early: 9.298e-14 | 1-3 4.312 9.3e-14 | up undecided 0-20 10-30 20-40 -0.0006601 1.006 1.262 0 9.3e-14 0.0371 0
late: 0.0003843 | 23-28 3.171 0.000384 | up undecided 200-250 240-270 260-inf 0.2003 0.5301 6.375 5.02 0.000384 0.0339 0
end: 7.757e-18 | 26-29 4.583 7.76e-18 | up undecided 260-270 270-280 280-inf 0.001041 1.011 11.46 84.13 7.76e-18 0.0146 0
slow: 1.06e-05 | 10-36 2.361 1.06e-05 | up smooth 70-180 200-270 300-inf 0.05388 0.9324 0.907 -23.63 1.06e-05 0.103 0
bump: 1.636e-05 | 8-11 2.432 2.21e-10; 25-30 -1.737 2.83e-07 | up undecided 70-90 90-110 100-110 0.1149 0.8019 4.069 1.29 2.21e-10 0.0338 0 | down abrupt 240-270 260-290 290-330 0.7996 0.3096 6.875 6.551 2.83e-07 0.0369 0
kink: 6.975e-17 | 15-24 2.234 6.97e-17 | up smooth 110-140 190-210 230-240 -0.01769 1.006 1.779 -26.8 6.97e-17 0.029 0.2
two: 1.151e-08 | 10-34 2.382 1.15e-08 | up smooth 80-230 190-310 300-380 0.08791 1.377 1.265 -10.16 1.15e-08 0.143 0.8
three: 1.301e-06 | 10-11 1.946 7.27e-07; 30-35 -2.001 3.59e-06; 50-53 2.221 1.16e-06 | up abrupt 90-110 100-120 110-130 0.01985 1.021 4.559 7.176 7.27e-07 0.0739 0 | down abrupt 290-320 310-330 330-380 0.9817 -0.03509 6.646 7.826 3.59e-06 0.0981 0 | up abrupt 490-510 500-520 510-530 -0.01703 1.046 31.76 36.15 1.16e-06 0.0664 0
stairs: 8.138e-09 | 5-7 2.081 6.12e-14; 19-23 1.166 4.84e-07; 39-44 -1.943 3.55e-12; 60-64 1.777 8.54e-10 | up undecided 40-60 50-70 60-80 0.01613 0.9907 3.75 0 6.12e-14 0.0347 0 | up abrupt 200-210 200-220 220-240 0.9881 1.513 8.848 18.38 4.84e-07 0.0367 0 | down abrupt 400-410 410-430 430-440 1.509 0.6033 13.12 41.92 3.55e-12 0.0361 0 | up abrupt 600-610 610-620 620-630 0.6051 1.412 25.62 48.42 8.54e-10 0.0369 0
dense: 1.303e-18 | 33-55 2.204 1.3e-18 | up smooth 960-1100 1230-1370 1460-1590 0.01282 1.017 2.921 -14.14 1.3e-18 0.0878 0
"""


@pytest.mark.parametrize("line", REFERENCE.strip().splitlines(), ids=lambda line: line.split(":")[0])
def test_numbers_of_reference_curves(line):
    name, _, wanted = line.partition(": ")
    assert told(CURVES[name]) == wanted


def test_every_reference_curve_is_looked_at(): assert [line.split(":")[0] for line in REFERENCE.strip().splitlines()] == [*CURVES]


def test_values_are_standardised():
    assert standardise(np.array([1., 3.])).tolist() == [-1, 1] and standardise(np.array([1e6, 3e6])).tolist() == [-1, 1]
    assert not standardise(np.full(9, .1)).any() and not standardise(1e6 + 1e-7 * rough(9, 1.)).any() # what rounding leaves is nothing
    assert standardise(1e-9 * rough(9, 1.)).std() == pytest.approx(1)


def test_many_evaluations_are_averaged():
    x = np.arange(260)
    values, first, last = average_blocks(x * 10, x**2.)
    assert len(values) == 128 and (first[0], last[0], first[-1], last[-1]) == (0, 20, 2580, 2590) and values[0] == 5 / 3 and values[-1] == (258**2 + 259**2) / 2
    assert (first[1:] - last[:-1] == 10).all()
    values, first, last = average_blocks(x[:128], x[:128])
    assert all((found == x[:128]).all() for found in (values, first, last)) and len(average_blocks(x, x, 129)[0]) == 129


def by_hand(y, rows):
    "−2 log likelihood under AR(1) noise of the ρ that fits best, with the matrix itself; a thousandth of the variance is nothing."
    n, found = len(y), []
    for rho in (0, .2, .4, .6, .8):
        inverse = np.linalg.inv(rho ** abs(np.subtract.outer(range(n), range(n))) / (1 - rho**2))
        rest = y - rows.T @ np.linalg.solve(rows @ inverse @ rows.T, rows @ inverse @ y)
        found.append(n * np.log(rest @ inverse @ rest + .001 * n) - np.log(1 - rho**2))
    return min(found), (0, .2, .4, .6, .8)[np.argmin(found)]


@pytest.mark.parametrize("rho", [0, .5, .9])
def test_the_deviance_is_that_of_the_matrix(rho):
    y, one = standardise(rough(20, 1., rho)), np.ones((1, 20))
    extra = np.stack([np.arange(20.), np.arange(20.)**2, np.zeros(20)])
    square = np.stack([[row @ inverse @ row for row in extra] for inverse in (np.linalg.inv(r ** abs(np.subtract.outer(range(20), range(20))) / (1 - r**2)) for r in (0, .2, .4, .6, .8))])
    without, deviance, slope, rhos = ar1_deviance(y, one, extra, square)
    assert without == pytest.approx(by_hand(y, one)[0]) and ar1_deviance(y, one) == without
    for i in (0, 1):
        wanted, at = by_hand(y, np.vstack([one, extra[i:i + 1]]))
        assert deviance[i] == pytest.approx(wanted) and rhos[i] == at
    assert deviance[2] == pytest.approx(without) and slope[2] == 0
