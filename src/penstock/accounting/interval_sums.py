"""Amounts over equal intervals of time that double in length as a run grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penstock.machine_code import core
from penstock.units import Int64Array

Float64Array = npt.NDArray[np.float64]


class IntervalSums:
    """``channels`` sums over at most ``intervals`` intervals from ``origin_ns`` on. Whenever time outgrows them they
    are merged in pairs, so memory does not grow with the run."""

    def __init__(self, origin_ns: int, channels: int, first_ns: int, intervals: int = 1024) -> None:
        self.origin_ns = origin_ns
        self.interval_ns = first_ns
        self._sums = np.zeros((channels, intervals))
        self._core = core()

    def spread(self, channel: int, begin_ns: Int64Array, end_ns: Int64Array, per_ns: float) -> None:
        """Add ``per_ns`` for every ns of the spans [begin, end)."""
        if not len(begin_ns):
            return
        self._reach(int(end_ns.max()))
        if self._core is not None:
            # Span by span, as numpy does it below.
            sums = self._sums[channel]
            spans = np.ascontiguousarray(begin_ns), np.ascontiguousarray(end_ns)
            self._core.spread(sums, *spans, per_ns, self.origin_ns, self.interval_ns)
            return
        begin, end = begin_ns - self.origin_ns, end_ns - self.origin_ns
        first = begin // self.interval_ns
        pieces = np.maximum((end - 1) // self.interval_ns - first + 1, 0)
        place = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        interval = np.repeat(first, pieces) + place
        left = np.maximum(np.repeat(begin, pieces), interval * self.interval_ns)
        right = np.minimum(np.repeat(end, pieces), (interval + 1) * self.interval_ns)
        np.add.at(self._sums[channel], interval, (right - left) * per_ns)

    def put(self, channel: int, at_ns: Int64Array, amounts: Float64Array) -> None:
        """Add amounts at points in time."""
        if not len(at_ns):
            return
        self._reach(int(at_ns.max()) + 1)
        np.add.at(self._sums[channel], (at_ns - self.origin_ns) // self.interval_ns, amounts)

    def edges_ns(self, end_ns: int) -> Int64Array:
        """Where the intervals up to ``end_ns`` begin, and ``end_ns``."""
        used = max(-(-(end_ns - self.origin_ns) // self.interval_ns), 1)
        edges = self.origin_ns + np.arange(used + 1, dtype=np.int64) * self.interval_ns
        edges[-1] = max(end_ns, int(edges[-2]) + 1)
        return edges

    def table(self, end_ns: int) -> Float64Array:
        """The sums of the intervals up to ``end_ns``, shape (channels, intervals)."""
        self._reach(end_ns)
        return self._sums[:, : len(self.edges_ns(end_ns)) - 1].copy()

    def _reach(self, end_ns: int) -> None:
        while end_ns > self.origin_ns + self.interval_ns * self._sums.shape[1]:
            half = self._sums.shape[1] // 2
            self._sums[:, :half] = self._sums[:, 0::2] + self._sums[:, 1::2]
            self._sums[:, half:] = 0
            self.interval_ns *= 2
