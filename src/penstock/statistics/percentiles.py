"""Percentiles of sorted values: of short series, ``numpy.percentile`` takes far longer than the sorting."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def percentile_of_sorted(values: npt.NDArray[np.float64], percent: float, *, upper: bool = False) -> float:
    """``numpy.percentile(values, percent)`` to the bit, of values in rising order, shape (n,) with n > 0 and no NaN.

    Between two neighbours it is linear, or with ``upper`` the higher of them (``method="higher"``), where one may be
    infinite.
    """
    last = len(values) - 1
    place = last * (percent / 100.0)
    if upper:
        return float(values[math.ceil(place)])
    below = math.floor(place)
    if below >= last:
        return float(values[last])
    return between(float(values[below]), float(values[below + 1]), place - below)


def between(low: float, high: float, share: float) -> float:
    """What lies ``share`` of the way from ``low`` to ``high``: numpy's ``_lerp``, which computes from the upper
    neighbour when the point lies in the upper half."""
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
