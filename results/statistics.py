"""Which configurations differ from the best: paired comparisons over shared seeds, without SciPy.

Two configurations that were trained with the same seeds are compared by the differences seed by seed, which cancels
the effect that a seed has on both (the split, the order of the images). The test is Student's, two-sided, at 5 %.

The best is chosen by looking at all k configurations, so any of the k (k − 1) / 2 pairs could have been the one
that is tested. Each p is therefore multiplied by that number (Bonferroni: Dunn 1961, JASA 56, 52–64): among equal
configurations, any is called worse in at most 5 % of sweeps, however the best was chosen. Holm's procedure over the
k − 1 comparisons alone takes the best as given and exceeds that; ``python -m benchmarks.report`` measures both.
"""

import math
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

ALPHA, POWER = 0.05, 0.8
FEW = 4  # with fewer shared seeds a comparison is weak: the spread is poorly known


class Comparison(NamedTuple):
    """A configuration minus the best one, over the seeds that both have.

    Args:
        difference: mean of the differences, in the metric's unit.
        low, high: 95 % interval of the mean by Student's t, for this comparison alone; NaN for fewer than two seeds.
        shared: number of seeds.
        p: two-sided, corrected for all pairs; NaN for fewer than two seeds.
        needed: seeds that would probably distinguish the two; NaN for fewer than two seeds, or equal means.
    """

    difference: float
    low: float
    high: float
    shared: int
    p: float
    needed: float


def compare(scores: pd.DataFrame, best: object) -> pd.DataFrame:
    """One ``Comparison`` per row: each configuration with the best.

    Args:
        scores: one row per seed, one column per configuration; NaN where a job has no result.
        best: a column.
    """
    pairs = len(scores.columns) * (len(scores.columns) - 1) // 2
    values = scores.to_numpy(dtype=float)
    differences = values - values[:, [scores.columns.get_loc(best)]]
    found = [_compare(column[np.isfinite(column)], pairs) for column in differences.T]
    return pd.DataFrame(found, index=scores.columns).drop(index=best)


def _compare(differences: np.ndarray, pairs: int) -> Comparison:
    n, nan = len(differences), math.nan
    if n < 2:
        return Comparison(float(differences[0]) if n else nan, nan, nan, n, nan, nan)
    mean, std = float(differences.mean()), float(differences.std(ddof=1))
    error = std / math.sqrt(n)
    if std > 1e-12 * abs(mean):
        p = two_sided_p(mean / error, n - 1)
    else:  # equal differences, where t is undefined: a sign test
        p, error = 2.0 ** (1 - n) if mean else 1.0, 0.0
    margin = quantile(ALPHA, n - 1) * error
    needed = max(n + 1, seeds_needed(mean, std, ALPHA / pairs)) if mean else nan
    return Comparison(mean, mean - margin, mean + margin, n, min(1.0, p * pairs), needed)


def two_sided_p(t: float, df: int) -> float:
    """The probability that Student's t is at least as far from 0 as ``t``; exact up to rounding.

    Source: Abramowitz and Stegun 1964, Handbook of Mathematical Functions, 26.7.3 and 26.7.4 (a finite sum).

    Args:
        df: degrees of freedom, at least 1.
    """
    angle, odd = math.atan2(abs(t), math.sqrt(df)), df % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for j in range(1, (df - odd) // 2 + 1):
        total += term
        term *= math.cos(angle) ** 2 * (2 * j - 1 + odd) / (2 * j + odd)
    inside = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + inside) if odd else inside))


@cache
def quantile(p: float, df: int) -> float:
    """The t for which ``two_sided_p`` is ``p``, by bisection: 2.365 for 5 % and 7 degrees of freedom."""
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, df) > p else (low, middle)
    return high


def seeds_needed(difference: float, std: float, alpha: float) -> int:
    """The number of seeds with which a paired t test detects such a difference in 80 % of sweeps.

    With z(q) the normal quantile: ((z(1 − α/2) + z(0.8)) std / difference)² + z(1 − α/2)² / 2, rounded up. Source:
    Guenther 1981, The American Statistician 35, 243–244. The measured difference and spread are taken as true.

    Args:
        difference: not 0.
        std: standard deviation of the differences between seeds.
        alpha: two-sided level of the test, after the correction.
    """
    normal = NormalDist()
    z = normal.inv_cdf(1 - alpha / 2)
    return math.ceil(((z + normal.inv_cdf(POWER)) * std / difference) ** 2 + z**2 / 2)
