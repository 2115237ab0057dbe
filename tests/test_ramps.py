"Ramps: what is found in curves that are neither smooth nor random, to four digits; every claim about time stands on these numbers."
import numpy as np
import pytest

from grok_nb import InputError
from grok_nb.ramps import (ar1_deviance, average_blocks, critical_evidence, find_legs, min_evaluations, noise_p_value, rise_shapes,
                           standardise)
from grok_nb.transitions import transition, transitions


def rough(n, size, rho=0):
    "What looks like noise, the same on every machine."
    e = np.sin(1.3 * np.arange(n)**2 + .4)
    for t in range(1, n): e[t] += rho * e[t - 1]
    return size * e


def bent(n, at, levels, size=.05): return np.interp(np.arange(n), at, levels) + rough(n, size)


CURVES = dict(
    jump=bent(20, [9, 10], [.1, .7]), fall=bent(25, [8, 16], [.9, .3], .1), eight=bent(8, [3, 4], [0, 1]), noise=rough(24, 1.),
    wander=rough(40, 1., .8), outlier=rough(30, .1) + (np.arange(30) == 12), weak=bent(30, [14, 16], [0, .1], .08),
    first=bent(30, [0, 6], [0, 1], .02), early=bent(40, [1, 3], [0, 1]), pieces=bent(80, [10, 14, 50], [0, .7, 1.], .01), late=bent(30, [24, 27], [.2, .5]), end=bent(30, [26, 29], [0, 1], .02), slow=bent(50, [5, 45], [0, 1], .15),
    bump=bent(40, [8, 11, 25, 30], [.1, .8, .8, .3]), kink=bent(60, [10, 20, 24], [0, .4, 1], .03), two=bent(45, [10, 14, 28, 33], [0, .6, .6, 1.4], .04),
    three=bent(60, [10, 12, 30, 34, 50, 52], [0, 1, 1, 0, 0, 1], .1), stairs=bent(70, [5, 7, 20, 23, 40, 44, 60, 63], [0, 1, 1, 1.5, 1.5, .6, .6, 1.4]),
    dense=bent(300, [100, 160], [0, 1], .2)) | {
    f"there {a}-{b} of {n}": 1. * ((np.arange(n) >= a) & (np.arange(n) < b)) + rough(n, .03) for a, b, n in (
        (12, 13, 30), (12, 14, 30), (12, 15, 30), (3, 6, 9), (12, 29, 30), (12, 28, 30), (12, 27, 30), (27, 30, 30), (28, 30, 30), (29, 30, 30))} | {
    f"gone {a}-{b}": (np.arange(40) >= 10) - 1. * ((np.arange(40) >= a) & (np.arange(40) < b)) + rough(40, .03) for a, b in (
        (12, 20), (13, 20), (14, 20), (24, 25), (24, 26), (24, 27), (24, 28), (24, 38), (24, 39))} | {
    f"{share:.0%} lost": (np.arange(40) >= 12) - share * (np.arange(40) >= 28) + rough(40, .01) for share in (.19, .21)}


def told(y):
    "The p value of the whole; each leg; each transition's times, shape and numbers."
    x, z = 10. * np.arange(len(y)), standardise(average_blocks(np.arange(len(y)), y)[0])
    legs = [f"{a}-{b} {height:.4g} {p:.3g}" for a, b, height, p in find_legs(z, critical_evidence(.025), .2)]
    def times(*intervals): return " ".join(f"{i.lo:g}-{i.hi:g}" for i in intervals)
    seen = [f"{t.direction} {t.shape} {times(t.onset, t.midpoint, t.saturation)} {t.baseline:.4g} {t.plateau:.4g} {t.sharpness:.4g} {t.step_over_ramp:.4g} {t.p_value:.3g} {t.noise:.3g} {t.persistence:g}"
            for t in transitions((x, y))]
    return " | ".join([f"{noise_p_value((x, y)):.4g}", "; ".join(legs) or "no leg", *seen])


REFERENCE = """
jump: 5.089e-08 | 9-10 1.987 5.09e-08 | up abrupt 90-100 90-100 90-110 0.1146 0.6869 9.688 25.8 5.09e-08 0.0321 0
fall: 0.001615 | 8-15 -2.148 0.00162 | down smooth 50-100 100-130 120-180 0.9362 0.3104 1.913 -12.07 0.00162 0.0696 0
eight: 3.194e-05 | 3-4 1.997 3.19e-05 | up undecided 30-40 30-40 30-50 0.003752 1.032 3.5 0 3.19e-05 0.0277 0
noise: 0.9976 | no leg
wander: 0.7961 | no leg
outlier: 1 | no leg
weak: 0.2214 | no leg
first: 5.336e-16 | 0-6 3.757 5.34e-16 | up smooth 0-10 20-40 50-60 0.007887 1.001 0.6356 -78.25 5.34e-16 0.0144 0
early: 9.298e-14 | 1-3 4.312 9.3e-14 | up undecided 0-20 10-30 20-40 0.02328 1.006 1.633 0 9.3e-14 0.0362 0
pieces: 1.67e-27 | 10-51 2.958 3.19e-44 | up smooth 100-110 120-130 370-390 0.001559 1.003 0.4579 -104.7 3.19e-44 0.00767 0
late: 0.0003843 | 23-28 3.171 0.000384 | up undecided 200-250 240-270 260-inf 0.2008 0.5322 6.808 4.745 0.000384 0.0337 0
end: 7.757e-18 | 26-29 4.583 7.76e-18 | up undecided 260-270 270-280 280-inf 0.001298 1.008 12.48 79.43 7.76e-18 0.0141 0
slow: 1.06e-05 | 10-36 2.361 1.06e-05 | up smooth 70-180 200-270 310-inf 0.05199 0.9379 0.8923 -23.64 1.06e-05 0.103 0
bump: 1.636e-05 | 8-11 2.432 2.21e-10; 25-30 -1.737 2.83e-07 | up undecided 60-90 90-110 100-120 0.1114 0.8009 4.176 0.2002 2.21e-10 0.0328 0 | down undecided 240-270 260-290 290-330 0.7987 0.3032 6.386 4.942 2.83e-07 0.036 0
kink: 6.975e-17 | 15-24 2.234 6.97e-17 | up smooth 120-140 200-210 220-240 0.008015 1.006 1.97 -38.46 6.97e-17 0.022 0
two: 1.151e-08 | 10-34 2.382 1.15e-08 | up smooth 70-200 210-300 310-350 0.1178 1.406 1.451 -12.24 1.15e-08 0.116 0.8
three: 1.301e-06 | 10-11 1.946 7.27e-07; 30-35 -2.001 3.59e-06; 50-53 2.221 1.16e-06 | up undecided 90-110 100-120 110-140 0.01757 1.012 7.659 2.946 7.27e-07 0.0718 0 | down abrupt 290-320 310-330 320-390 0.9829 -0.03217 6.748 6.404 3.59e-06 0.098 0 | up abrupt 490-510 500-520 510-530 -0.02048 1.046 29.97 37.52 1.16e-06 0.0645 0
stairs: 8.138e-09 | 5-7 2.081 6.12e-14; 19-23 1.166 4.84e-07; 39-44 -1.943 3.55e-12; 60-64 1.777 8.54e-10 | up undecided 40-60 50-70 60-70 0.008902 0.991 5.242 0.5736 6.12e-14 0.0336 0 | up abrupt 190-210 200-220 210-240 0.9892 1.51 10.39 17.41 4.84e-07 0.0357 0 | down abrupt 400-410 410-430 430-440 1.511 0.6056 13.73 43.16 3.55e-12 0.0355 0 | up abrupt 600-610 610-620 620-630 0.6057 1.412 29.38 49.13 8.54e-10 0.0363 0
dense: 4.827e-17 | 33-53 2.141 4.83e-17 | up smooth 1000-1110 1260-1330 1460-1590 0.01915 1.025 2.739 -26.11 4.83e-17 0.0954 0
there 12-13 of 30: 0.9152 | no leg
there 12-14 of 30: 0.001347 | no leg
there 12-15 of 30: 1.605e-18 | 11-12 3.318 4.87e-18; 14-15 -3.33 2.78e-18 | up abrupt 110-120 110-120 110-120 0.00528 0.9929 11.5 40.44 4.87e-18 0.0203 0 | down abrupt 140-150 140-150 140-150 0.9912 0.002586 14.45 33.56 2.78e-18 0.0207 0
there 3-6 of 9: 1.005e-05 | 2-3 2.131 1.72e-06; 5-6 -2.108 1.67e-06 | up undecided 20-30 20-30 20-40 0.007491 1.026 2.241 0 1.72e-06 0.0144 0 | down abrupt 50-60 50-60 50-60 1.013 0.01819 5.5 15.55 1.67e-06 0.0168 0
there 12-29 of 30: 2.169e-05 | 11-12 2.052 3.64e-06; 26-29 -1.315 0.00275 | up abrupt 110-120 110-120 110-120 0.005361 1 11.5 19.84 3.64e-06 0.0214 0 | down undecided 250-280 270-280 280-inf 1.013 0.2195 23.41 17.36 0.00275 0.112 0
there 12-28 of 30: 3.103e-18 | 11-12 2.007 2.7e-17; 27-28 -1.977 1.62e-16 | up abrupt 110-120 110-120 110-120 0.005248 0.9988 11.5 30.22 2.7e-17 0.0212 0 | down abrupt 270-280 270-280 270-280 0.9985 0.01249 27.5 43.06 1.62e-16 0.0197 0
there 12-27 of 30: 3.025e-18 | 11-12 1.999 3.81e-17; 26-27 -1.996 7.76e-17 | up abrupt 110-120 110-120 110-120 0.005361 1 11.5 19.84 3.81e-17 0.0214 0 | down abrupt 260-270 260-270 260-270 0.9993 0.007873 26.45 65.85 7.76e-17 0.0211 0
there 27-30 of 30: 7.69e-18 | 26-27 3.324 7.69e-18 | up abrupt 260-270 260-270 260-280 0.00195 1.021 26.64 91.84 7.69e-18 0.0212 0
there 28-30 of 30: 1.768e-18 | 27-28 3.995 1.77e-18 | up abrupt 270-280 270-280 270-280 0.001222 1.021 27.5 86.5 1.77e-18 0.0215 0
there 29-30 of 30: 0.0009177 | 26-29 3.673 0.000918 | up undecided 260-280 270-280 280-inf -0.005545 0.8228 28 19.2 0.000918 0.0806 0
gone 12-20: 0.0007155 | 19-20 2.015 4.21e-22 | up abrupt 170-200 190-210 190-220 0.09937 1.007 19.5 9.147 4.21e-22 0.212 0.4
gone 13-20: 6.007e-23 | 9-10 1.973 2.7e-21; 12-13 -2.009 2.87e-21; 19-20 2.047 6.6e-22 | up abrupt 90-100 90-100 90-110 0.008785 0.9968 9.536 39.77 2.7e-21 0.0202 0 | down abrupt 120-130 120-130 120-130 0.9933 -0.01154 12.5 37.5 2.87e-21 0.017 0 | up abrupt 190-200 190-200 190-200 -0.00921 1.009 19.59 85.08 6.6e-22 0.0202 0
gone 14-20: 3.698e-23 | 9-10 1.999 1.71e-21; 13-14 -2.041 8.02e-22; 19-20 2.07 5.3e-22 | up abrupt 90-100 90-100 90-110 0.00879 1 9.595 41.28 1.71e-21 0.0196 0 | down abrupt 130-140 130-140 130-140 0.9924 -0.01168 13.5 38.19 8.02e-22 0.0182 0 | up abrupt 190-200 190-200 190-200 -0.01169 1.009 19.59 84.58 5.3e-22 0.0204 0
gone 24-25: 6.92e-06 | 9-10 2.168 6.92e-06 | up abrupt 70-100 90-100 90-120 0.008786 0.9678 9.5 6.578 6.92e-06 0.152 0
gone 24-26: 0.001373 | 9-10 2.185 2.06e-22 | up undecided 60-100 90-100 90-120 0.008786 0.9345 9.5 4.869 2.06e-22 0.212 0.4
gone 24-27: 6.264e-23 | 9-10 2.124 7.79e-22; 23-24 -2.115 1.62e-21; 26-27 2.138 1.35e-21 | up abrupt 90-100 90-100 90-100 0.008783 0.9966 9.535 22.7 7.79e-22 0.0206 0 | down abrupt 230-240 230-240 230-250 0.9948 0.003425 23.5 59.67 1.62e-21 0.0201 0 | up abrupt 260-270 260-270 260-270 0.01263 1.007 26.5 26.59 1.35e-21 0.0214 0.2
gone 24-28: 4.938e-23 | 9-10 2.08 1.09e-21; 23-24 -2.088 1.33e-21; 27-28 2.114 5.74e-22 | up abrupt 90-100 90-100 90-100 0.008783 0.9966 9.535 22.7 1.09e-21 0.0206 0 | down abrupt 230-240 230-240 230-250 0.9948 -0.004288 23.21 62.14 1.33e-21 0.02 0 | up abrupt 270-280 270-280 270-280 0.004877 1.007 27.5 47.85 5.74e-22 0.0224 0.2
gone 24-38: 2.925e-23 | 9-10 2.049 2.37e-22; 23-24 -2.043 2.15e-22; 37-38 1.995 5.88e-21 | up abrupt 90-100 90-100 90-100 0.008783 0.9966 9.535 22.7 2.37e-22 0.0206 0 | down abrupt 230-240 230-240 230-240 0.9948 0.0103 23.18 48.62 2.15e-22 0.02 0 | up abrupt 370-380 370-380 370-380 0.01039 0.9719 37.82 71.23 5.88e-21 0.0176 0
gone 24-39: 2.573e-07 | 9-10 2.068 1.3e-08; 23-24 -2.106 9.85e-09; 36-39 1.322 0.000181 | up abrupt 90-100 90-100 90-100 0.008783 0.9966 9.535 22.7 1.3e-08 0.0206 0 | down abrupt 230-240 230-240 230-240 0.9948 0.008803 23.18 87.67 9.85e-09 0.0201 0 | up undecided 350-380 370-380 380-inf -0.005846 0.7665 31.77 17.67 0.000181 0.116 0
19% lost: 6.603e-27 | 11-12 2.333 2.97e-28 | up abrupt 110-120 110-120 110-120 0.002092 0.9191 11.5 41.13 2.97e-28 0.0776 0.8
21% lost: 5.846e-27 | 11-12 2.346 2.65e-28; 27-28 -0.4862 3.38e-10 | up abrupt 110-120 110-120 110-120 0.001774 0.9996 11.5 27.53 2.65e-28 0.00708 0 | down abrupt 260-280 270-280 270-290 0.9995 0.7918 27.67 42.92 3.38e-10 0.0071 0
"""


@pytest.mark.parametrize("line", REFERENCE.strip().splitlines(), ids=lambda line: line.split(":")[0])
def test_numbers_of_reference_curves(line):
    name, _, wanted = line.partition(": ")
    assert told(CURVES[name]) == wanted


def test_every_reference_curve_is_looked_at(): assert [line.split(":")[0] for line in REFERENCE.strip().splitlines()] == [*CURVES]


@pytest.mark.parametrize("n, at, width, noise, side, shape", [(20, 9, 2, .22, 1, "undecided"), (20, 9, 3, .06, 1, "abrupt"), (20, 9, 4, .02, -1, "undecided"), (40, 20, 8, .04, -1, "smooth")])
def test_a_difference_in_BIC_of_six_decides(n, at, width, noise, side, shape):
    "Curves whose difference is within a half of six: strong evidence begins there (Kass and Raftery 1995)."
    seen = transition((10. * np.arange(n), bent(n, [at, at + width], [0, 1], noise)))
    assert seen.shape == shape and seen.saturated and 5.5 < side * seen.step_over_ramp < 6.5 and (side * seen.step_over_ramp > 6) == (shape != "undecided")


def test_two_ramps_may_leave_no_room_for_a_third():
    for top, end in ((3, 6), (3, 7), (4, 6)):
        curve = np.arange(8), np.interp(np.arange(8), [0, top, end], [0, 1, 0])
        assert noise_p_value(curve) < 1e-4 and [t.direction for t in transitions(curve)] == ["up", "down"]


def test_values_are_standardised():
    assert standardise(np.array([1., 3.])).tolist() == [-1, 1] and standardise(np.array([1e6, 3e6])).tolist() == [-1, 1]
    assert not standardise(np.full(9, .1)).any() and not standardise(1e6 + 1e-7 * rough(9, 1.)).any() # what rounding leaves is nothing
    assert standardise(1e-9 * rough(9, 1.)).std() == pytest.approx(1) and not standardise(1e-13 * rough(9, 1.)).any()


def test_many_evaluations_are_averaged():
    x = np.arange(260)
    values, first, last = average_blocks(x * 10, x**2.)
    assert len(values) == 87 and (first[0], last[0], first[-1], last[-1]) == (0, 20, 2580, 2590) and values[0] == 5 / 3 and values[-1] == (258**2 + 259**2) / 2
    assert (first[1:] - last[:-1] == 10).all() and np.bincount((last - first).astype(int) // 10).tolist() == [0, 1, 86] # of three, but for the rest
    values, first, last = average_blocks(x[:128], x[:128])
    assert all((found == x[:128]).all() for found in (values, first, last)) and len(average_blocks(x, x, 130)[0]) == 130 and len(average_blocks(x, x, 129)[0]) == 87


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
