"""Confidence intervals for what a simulation in its steady state shows: values that hang together in time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

FloatArray = npt.NDArray[np.float64]

BATCHES = 16
"""Between the 10 and 30 of Schmeiser, "Batch size effects in the analysis of simulation output", 1982: more do not
make an interval much shorter, and their means hang together more."""

SECTIONS = 10
"""Of all runs together, or a few more: percentiles of shorter ones are too far from those of all values."""

MOST_CORRELATION = 0.8
"""Between neighbouring batches. Where there is more, the series is too short for any interval."""


@dataclass(frozen=True, slots=True)
class Interval:
    """``estimate`` and the two ends of its interval. ``sound`` is False where the values are too few, or hang
    together for too long, for the interval to be trusted."""

    estimate: float
    low: float
    high: float
    sound: bool = True

    @property
    def relative_width(self) -> float:
        """Width over estimate; infinite where that is 0."""
        return (self.high - self.low) / abs(self.estimate) if self.estimate else math.inf

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def student_t(confidence: float, degrees: float) -> float:
    """The two-sided quantile of Student's t."""
    return float(stdtrit(degrees, 0.5 + confidence / 2))


def replication_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """The mean of independent replications' figures. One replication has no interval: it is infinite."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf, sound=False)
    half = student_t(confidence, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def batch_means_interval(series: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean of a stationary series of shape (n,) from one run, from the means of sixteen adjacent batches.

    The variance of the mean is scaled by (1 + r) / (1 - r), r the lag-one correlation of the means, and the t
    quantile is adjusted for their skewness (Willink 2005), both as in Tafazzoli, Steiger and Wilson, "N-Skart", IEEE
    Transactions on Automatic Control 2011; its degrees of freedom are those of :func:`equivalent`.
    """
    values = np.asarray(series, dtype=np.float64)
    if len(values) < 2 * BATCHES:
        mean = float(values.mean()) if len(values) else math.nan
        return Interval(mean, -math.inf, math.inf, sound=False)
    means = batch_means(values, BATCHES)
    mean = float(values.mean())
    spread = float(means.std(ddof=1))
    if spread == 0.0:
        return Interval(mean, mean, mean)
    correlation = unbiased_lag_one([means])
    error = spread / math.sqrt(BATCHES) * math.sqrt(_inflation(correlation))
    t = student_t(confidence, equivalent(BATCHES, correlation) - 1)
    skew = _skewness(means) / (6 * math.sqrt(BATCHES))
    low, high = mean - error * _willink(t, skew), mean - error * _willink(-t, skew)
    return Interval(mean, low, high, sound=correlation < MOST_CORRELATION)


def batch_means(values: FloatArray, count: int) -> FloatArray:
    """Means of ``count`` adjacent batches of equal length, shape (count,); what is left over at the start is not
    in any."""
    size = len(values) // count
    return values[len(values) - size * count :].reshape(count, size).mean(axis=1)


def equivalent(count: int, correlation: float) -> float:
    """How many independent values tell as much of a mean as ``count`` whose neighbours correlate; two at least.

    Their variance is known as badly as that of so many, which a t quantile has to answer for. Source: Zwiers and von
    Storch, "Taking serial correlation into account in tests of the mean", Journal of Climate 1995.
    """
    return max(count / _inflation(correlation), 2.0)


def series_inflation(correlation: float, length: int) -> float:
    """By how much the variance of a mean of ``length`` neighbours exceeds that of as many independent values, where
    correlation falls geometrically with distance (a first-order autoregression). It is :func:`_inflation` for long
    series and at most ``length`` for short ones."""
    at = np.arange(1, length)
    return 1.0 + 2.0 * float(((1 - at / length) * correlation**at).sum())


def variance_degrees(correlation: float, length: int, count: int) -> float:
    """Degrees of freedom of a variance estimated from ``count`` values in series of ``length`` each; one at least.

    Squares of values that correlate by r correlate by r squared. Source: Bayley and Hammersley, "The effective number
    of independent observations in an autocorrelated time series", JRSS supplement 1946.
    """
    return max(count / series_inflation(correlation**2, length) - 1, 1.0)


def lag_one(runs: Sequence[FloatArray]) -> float:
    """Correlation of neighbours within each of several series, about their common mean; from 0 up, since a
    negative estimate is no reason for a narrower interval."""
    return min(max(_lag_one(runs), 0.0), MOST_CORRELATION)


def unbiased_lag_one(runs: Sequence[FloatArray]) -> float:
    """The same without the bias of n values, which is -(1 + 4 r) / n: Marriott and Pope, "Bias in the estimation of
    autocorrelations", Biometrika 1954."""
    found = _lag_one(runs)
    return min(max(found + (1 + 4 * found) / sum(map(len, runs)), 0.0), MOST_CORRELATION)


def _lag_one(runs: Sequence[FloatArray]) -> float:
    centre = float(np.concatenate(list(runs)).mean())
    together = sum(float(np.dot(one[1:] - centre, one[:-1] - centre)) for one in runs)
    pairs = sum(len(one) - 1 for one in runs)
    squares = sum(float(np.dot(one - centre, one - centre)) for one in runs)
    total = sum(len(one) for one in runs)
    if not pairs or not squares:
        return 0.0
    return together / pairs / (squares / total)


def sectioned_interval(
    runs: Sequence[FloatArray],
    statistic: Callable[[FloatArray], float],
    *,
    sections: int = SECTIONS,
    confidence: float = 0.95,
) -> Interval:
    """A statistic (a percentile, a mean) of the values of several replications, each in order of time.

    The estimate is that of all values together. Every run is cut into equal sections, ``sections`` or a few more of
    them in all, and the variance comes from the sections' own statistics about that estimate, so that the bias of a
    percentile of few values widens the interval and does not shift it. Neighbours within a run that hang together widen
    it by :func:`series_inflation`, twice (their own spread is too small by as much), with the degrees of freedom of
    :func:`variance_degrees`; runs are independent. It is computed for logarithms where all figures are positive, since
    latencies near saturation are skewed. Source: Nakayama, "Confidence intervals for quantiles using sectioning", ACM
    TOMACS 2014.
    """
    pooled = float(statistic(np.concatenate(list(runs))))
    cuts = max(-(-sections // len(runs)), 1)
    figures = [
        np.array([statistic(part) for part in np.array_split(run, cuts) if len(part)], dtype=np.float64)
        for run in runs
    ]
    flat = np.concatenate(figures)
    if not math.isfinite(pooled):
        return Interval(pooled, pooled, math.inf)
    if len(flat) < 2:
        return Interval(pooled, -math.inf, math.inf, sound=False)
    if not np.isfinite(flat).all():
        return Interval(pooled, float(flat.min()), math.inf)
    logarithmic = pooled > 0 and bool((flat > 0).all())
    shown = [np.log(one) if logarithmic else one for one in figures]
    centre = math.log(pooled) if logarithmic else pooled
    deviations = np.concatenate(shown) - centre
    count = len(deviations)
    correlation = unbiased_lag_one(shown)
    inflation = series_inflation(correlation, cuts)
    spread = float(np.dot(deviations, deviations)) / max(count - inflation, 1.0)
    half = student_t(confidence, variance_degrees(correlation, cuts, count)) * math.sqrt(
        spread / count * inflation
    )
    low, high = centre - half, centre + half
    if logarithmic:
        # Where the sections are worlds apart the upper end has no meaning beyond "unknown".
        low, high = math.exp(low), math.exp(min(high, 700.0))
    # However long neighbours hang together, runs do not: of two or more the inflation has a bound, their length.
    return Interval(pooled, low, high, sound=len(runs) > 1 or correlation < MOST_CORRELATION)


def _inflation(correlation: float) -> float:
    return (1 + correlation) / (1 - correlation)


def _skewness(values: FloatArray) -> float:
    """The sample skewness, unbiased under normality."""
    count = len(values)
    centred = values - values.mean()
    cubes, squares = float((centred**3).mean()), float((centred**2).mean())
    return cubes / squares**1.5 * math.sqrt(count * (count - 1)) / (count - 2)


def _willink(t: float, skew: float) -> float:
    """Willink's adjusted quantile; ``skew`` is the sample skewness over 6 sqrt(n)."""
    if abs(skew) < 1e-3:
        return t
    inside = 1 + 6 * skew * (t - skew)
    return (math.copysign(abs(inside) ** (1 / 3), inside) - 1) / (2 * skew)
