"""Amounts over equal intervals of time that double in length as a run grows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penstock.machine_code import core
from penstock.units import Int64Array

Float64Array = npt.NDArray[np.float64]


class IntervalSums:
    """``channels`` sums over at most ``intervals`` intervals from ``origin_ns`` on. Whenever time outgrows them they
    are merged in pairs, so memory does not grow with the run.

    What is spread over time is counted in ns, by its rate: the sums do not depend on the order in which it comes.
    """

    def __init__(self, origin_ns: int, channels: int, first_ns: int, intervals: int = 1024) -> None:
        self.origin_ns = origin_ns
        self.interval_ns = first_ns
        self._amounts = np.zeros((channels, intervals))
        self._ns: dict[tuple[int, float], Int64Array] = {}
        self._core = core()

    def spread(self, channel: int, begin_ns: Int64Array, end_ns: Int64Array, per_ns: float) -> None:
        """Add ``per_ns`` for every ns of the spans [begin, end)."""
        if not len(begin_ns):
            return
        self.reach(int(end_ns.max()))
        counts = self.counts(channel, per_ns)
        if self._core is not None:
            spans = np.ascontiguousarray(begin_ns), np.ascontiguousarray(end_ns)
            self._core.spread(counts, *spans, self.origin_ns, self.interval_ns)
            return
        begin, end = begin_ns - self.origin_ns, end_ns - self.origin_ns
        first = begin // self.interval_ns
        pieces = np.maximum((end - 1) // self.interval_ns - first + 1, 0)
        place = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        interval = np.repeat(first, pieces) + place
        left = np.maximum(np.repeat(begin, pieces), interval * self.interval_ns)
        right = np.minimum(np.repeat(end, pieces), (interval + 1) * self.interval_ns)
        np.add.at(counts, interval, right - left)

    def counts(self, channel: int, per_ns: float) -> Int64Array:
        """ns by interval for which ``per_ns`` is added: for whoever counts them, within what :meth:`reach` allows."""
        counts = self._ns.get((channel, per_ns))
        if counts is None:
            counts = self._ns[channel, per_ns] = np.zeros(self._amounts.shape[1], dtype=np.int64)
        return counts

    def put(self, channel: int, at_ns: Int64Array, amounts: Float64Array) -> None:
        """Add amounts at points in time."""
        if not len(at_ns):
            return
        self.reach(int(at_ns.max()) + 1)
        np.add.at(self._amounts[channel], (at_ns - self.origin_ns) // self.interval_ns, amounts)

    def edges_ns(self, end_ns: int) -> Int64Array:
        """Where the intervals up to ``end_ns`` begin, and ``end_ns``."""
        used = max(-(-(end_ns - self.origin_ns) // self.interval_ns), 1)
        edges = self.origin_ns + np.arange(used + 1, dtype=np.int64) * self.interval_ns
        edges[-1] = max(end_ns, int(edges[-2]) + 1)
        return edges

    def table(self, end_ns: int) -> Float64Array:
        """The sums of the intervals up to ``end_ns``, shape (channels, intervals)."""
        self.reach(end_ns)
        sums = self._amounts.copy()
        for channel, per_ns in sorted(self._ns):
            sums[channel] += self._ns[channel, per_ns] * per_ns
        return sums[:, : len(self.edges_ns(end_ns)) - 1]

    def reach(self, end_ns: int) -> None:
        """Let the intervals cover the time up to ``end_ns``."""
        while end_ns > self.origin_ns + self.interval_ns * self._amounts.shape[1]:
            half = self._amounts.shape[1] // 2
            for sums in (*self._amounts, *self._ns.values()):
                sums[:half] = sums[0::2] + sums[1::2]
                sums[half:] = 0
            self.interval_ns *= 2
