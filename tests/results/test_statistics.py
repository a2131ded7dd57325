"""Paired comparisons, against tables, hand-computed values, and SciPy where it is installed."""

import math

import numpy as np
import pandas as pd
import pytest

from results import statistics


@pytest.mark.parametrize(
    ("p", "df", "t"),
    [  # a printed table of Student's t, two-sided
        (0.05, 1, 12.706), (0.05, 2, 4.303), (0.05, 3, 3.182), (0.05, 7, 2.365), (0.01, 4, 4.604), (0.001, 9, 4.781),
        (0.05, 30, 2.042), (0.05, 120, 1.980), (0.5, 5, 0.727),
    ],
)  # fmt: skip
def test_students_t(p, df, t):
    assert statistics.quantile(p, df) == pytest.approx(t, abs=5e-4)
    assert statistics.two_sided_p(-statistics.quantile(p, df), df) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 8, 39, 100])
def test_students_t_is_that_of_scipy(df):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 0.1, 1.0, 2.5, 12.0):
        assert statistics.two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-13)
    for p in (0.9, 0.05, 1e-3, 1e-6):
        assert statistics.quantile(p, df) == pytest.approx(stats.t.isf(p / 2, df), rel=1e-9)


def test_a_comparison_by_hand():
    scores = pd.DataFrame({"a": [5.0, 6, 7, 9], "b": [4.0, 3, 5, 9], "c": [np.nan, 5, 7, 6]})
    found = statistics.compare(scores, "a")
    # b - a: -1, -3, -2, 0: mean -1.5, deviation 1.2910, error 0.6455, t = -2.3238; p = 0.10273, times 3 pairs
    assert list(found.index) == ["b", "c"] and list(found["shared"]) == [4, 3]
    b = found.loc["b"]
    assert b.difference == -1.5 and b.p == pytest.approx(3 * 0.10273, abs=1e-4)
    assert [b.low, b.high] == pytest.approx([-1.5 - 3.1824 * 0.6455, -1.5 + 3.1824 * 0.6455], abs=1e-3)
    # normal quantiles of 1 - 0.05 / 6 and 0.8: ((2.3940 + 0.8416) 1.2910 / 1.5)² + 2.3940² / 2 = 10.62
    assert b.needed == 11


def test_a_comparison_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    scores = pd.DataFrame(np.random.default_rng(0).normal(size=(8, 2)))
    found = statistics.compare(scores, 0).loc[1]
    wanted = stats.ttest_rel(scores[1], scores[0])
    assert found.p == pytest.approx(wanted.pvalue, rel=1e-9)
    assert [found.low, found.high] == pytest.approx(list(wanted.confidence_interval(0.95)), rel=1e-9)


@pytest.mark.parametrize(
    ("differences", "p", "needed"),
    [
        ([], math.nan, math.nan),
        ([2.0], math.nan, math.nan),
        ([0.0, 0.0, 0.0], 1.0, math.nan),  # the same scores: no number of seeds tells them apart
        ([0.5] * 8, 2**-7, 9),  # equal differences: a sign test
    ],
)
def test_without_a_spread(differences, p, needed):
    scores = pd.DataFrame({"a": np.zeros(len(differences)), "b": differences}, dtype=float)
    (found,) = statistics.compare(scores, "a").itertuples(index=False)
    assert (found.p, found.needed) == pytest.approx((p, needed), nan_ok=True)
    assert found.shared == len(differences)


@pytest.mark.parametrize(("d", "alpha", "n"), [(1, 0.05, 10), (0.5, 0.05, 34), (0.3, 0.05 / 28, 180)])
def test_seeds_needed_are_those_of_the_noncentral_t(d, alpha, n):
    stats = pytest.importorskip("scipy.stats")
    assert statistics.seeds_needed(d, 1.0, alpha) == statistics.seeds_needed(-3 * d, 3.0, alpha) == n

    def power(n):
        limit = stats.t.isf(alpha / 2, n - 1)
        return stats.nct.sf(limit, n - 1, d * n**0.5)

    assert power(n - 1) < statistics.POWER <= power(n)


@pytest.mark.parametrize(
    ("configurations", "lead", "least", "most"), [(2, 0, 0.02, 0.08), (10, 0, 0, 0.10), (2, 1, 0.6, 0.75)]
)
def test_how_often_a_difference_is_seen(configurations, lead, least, most):
    """300 simulated sweeps of 8 seeds; benchmarks/report.py has more."""
    from benchmarks.report import simulate

    rng = np.random.default_rng(0)
    found = np.mean([simulate(configurations, 8, lead, rng)[0] for _ in range(300)])
    assert least <= found <= most
