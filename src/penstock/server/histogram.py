"""Counts of values by buckets, cheap to feed: values are kept raw and counted many at a time."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from penstock.units import NS_PER_S

_FOLD_AT = 8192


class Histogram:
    """A Prometheus histogram with the upper ``bounds`` of its buckets. Values are integers, divided by ``per_unit``
    when they are counted: nanoseconds become seconds with the default."""

    def __init__(self, bounds: Sequence[float], per_unit: float = NS_PER_S) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._per_unit = per_unit
        self._fresh: array[int] = array("q")
        self._counts = np.zeros(len(self.bounds) + 1, dtype=np.int64)

    def add(self, value: int) -> None:
        """Count a value."""
        self._fresh.append(value)
        if len(self._fresh) >= _FOLD_AT:
            self.fold()

    def fold(self) -> npt.NDArray[np.float64]:
        """Count what was added since the last time; returns those values, in units."""
        if not self._fresh:
            return np.zeros(0)
        values = np.frombuffer(self._fresh, dtype=np.int64) / self._per_unit
        self._fresh = array("q")
        places = np.searchsorted(self.bounds, values, side="left")
        self._counts += np.bincount(places, minlength=len(self.bounds) + 1)
        self.sum += float(values.sum())
        return values

    def cumulative(self) -> list[int]:
        """How many are at most each of the bounds, and at last how many there are."""
        self.fold()
        return np.cumsum(self._counts).tolist()

    def buckets(self) -> list[tuple[str, float]]:
        """As prometheus_client takes them: (upper bound, how many are at most that)."""
        names = [*(format_bound(bound) for bound in self.bounds), "+Inf"]
        return list(zip(names, map(float, self.cumulative()), strict=True))


def format_bound(bound: float) -> str:
    """A bound as vLLM's ``/metrics`` writes it: ``1.0``."""
    return str(float(bound))
