"""Where a series stops remembering how it began."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

BATCH = 5
"""MSER-5 looks at means of five values."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """``length`` values at the start are to be left out. ``settled`` is False where the rule would cut more than
    half of the series: it is then too short to tell, and ``length`` is half of it."""

    length: int
    settled: bool


def mser5(series: npt.ArrayLike) -> WarmUp:
    """The warm-up of a series of shape (n,), by the MSER-5 rule.

    The rule leaves out the number of values that makes the standard error of the mean of the others smallest, as
    if they were independent: it minimises sum((z - mean(z))**2) / len(z)**2 over the means z of five values each
    that stay. Source: White, Cobb and Spratt, "A comparison of five steady-state truncation heuristics for
    simulation", Winter Simulation Conference 2000; at most half of the series may go, as there. Fewer than 20 values
    are too few to tell.

    A system that starts empty comes from below. So a start that lies above the rest is no warm-up but chance, and
    stays: to cut it would make queues look shorter than they are.
    """
    values = np.asarray(series, dtype=np.float64)
    count = len(values) // BATCH
    if count < 4:
        return WarmUp(0, False)
    means = values[: count * BATCH].reshape(count, BATCH).mean(axis=1)
    left = np.arange(count, 0, -1, dtype=np.float64)
    # Sums over all tails at once; centred first, so that large means lose no digits.
    centred = means - means.mean()
    sums = np.cumsum(centred[::-1])[::-1]
    squares = np.cumsum((centred**2)[::-1])[::-1]
    errors = np.maximum(squares - sums**2 / left, 0.0) / left**2
    half = count // 2
    best = int(np.argmin(errors[: half + 1]))
    if best and means[:best].mean() >= means[best:].mean():
        return WarmUp(0, True)
    return WarmUp(best * BATCH, best < half)
