"""Whether a queue grows without end, or is only on its way to where it will stay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.statistics.intervals import (
    BATCHES,
    FloatArray,
    Interval,
    batch_means,
    lag_one,
    replication_interval,
    student_t,
)

CONFIDENCE = 0.98
"""Two-sided, so that a queue that does not grow is called overloaded once in a hundred times."""

STEADY_GROWTH = 0.5
"""A queue that settles grows less and less; one that is overloaded grows in its second half as in its first. The
border lies between the two."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Of a queue in one window: its slope over each half, in requests per second, and over the whole with the
    standard error of the latter."""

    first_per_s: float
    second_per_s: float
    whole_per_s: float
    error_per_s: float


UNKNOWN = Growth(0.0, 0.0, 0.0, math.inf)
"""Where there is too little to see."""

NO_GROWTH = Growth(0.0, 0.0, 0.0, 0.0)
"""Where nothing can grow without end, as in a closed loop."""


@dataclass(frozen=True, slots=True)
class Drift:
    """``growth`` in requests per second with its interval over the replications. ``overloaded``: it grows for sure,
    by that interval or in every run by itself, and steadily."""

    growth: Interval
    overloaded: bool


def growth(lengths: npt.ArrayLike, seconds: float) -> Growth:
    """Slopes of a queue whose length was looked at, at equal distances, over so many ``seconds``; shape (n,).

    Least squares on sixteen batch means; the residuals' lag-one correlation widens the standard error.
    """
    values = np.asarray(lengths, dtype=np.float64)
    if len(values) < 2 * BATCHES or seconds <= 0:
        return UNKNOWN
    means = batch_means(values, BATCHES)
    step = seconds / BATCHES
    whole, error = _slope(means, step)
    half = BATCHES // 2
    return Growth(_slope(means[:half], step)[0], _slope(means[half:], step)[0], whole, error)


FEW = 3
"""Of fewer replications the spread between them alone says nothing: t is 31.8 with one degree of freedom."""


def drift(runs: Sequence[Growth]) -> Drift:
    """The test over replications: their spread, or, of two, the larger of that and of the slopes' own standard errors,
    gives the interval.

    Replications that grow at rates some per cent apart may have an interval that reaches below 0. Chance does not make
    each of several independent queues grow for sure by itself: where all of them do, that decides as well.
    """
    found = (
        _pooled(runs)
        if len(runs) < FEW
        else replication_interval([one.whole_per_s for one in runs], CONFIDENCE)
    )
    first = sum(one.first_per_s for one in runs)
    second = sum(one.second_per_s for one in runs)
    grows = found.low > 0 or all(_pooled([one]).low > 0 for one in runs)
    return Drift(found, grows and second > STEADY_GROWTH * first)


def _pooled(runs: Sequence[Growth]) -> Interval:
    """Their mean growth, by their own standard errors, or by how far they are apart where that is more."""
    count = len(runs)
    mean = sum(one.whole_per_s for one in runs) / count
    own = sum(one.error_per_s**2 for one in runs) / count**2
    between = sum((one.whole_per_s - mean) ** 2 for one in runs) / max(count - 1, 1) / count
    error = math.sqrt(max(own, between))
    half = student_t(CONFIDENCE, count * (BATCHES - 2)) * error
    return Interval(mean, mean - half, mean + half)


def _slope(means: FloatArray, step: float) -> tuple[float, float]:
    """Slope per second of equally spaced values, and its standard error."""
    count = len(means)
    times = (np.arange(count) - (count - 1) / 2) * step
    slope = float(np.dot(times, means) / np.dot(times, times))
    residuals = means - means.mean() - slope * times
    correlation = lag_one([residuals])
    variance = float(np.dot(residuals, residuals)) / (count - 2) / float(np.dot(times, times))
    return slope, math.sqrt(variance * (1 + correlation) / (1 - correlation))
