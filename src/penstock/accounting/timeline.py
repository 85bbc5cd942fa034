"""What every stage did over time: busy and each cause per interval, in memory that does not grow with the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from penstock.accounting.bubbles import CAUSE_NAMES
from penstock.accounting.stage_spans import StageSpans
from penstock.recording.records import Int64Array

if TYPE_CHECKING:
    import polars as pl

_FIRST_INTERVAL_NS = 1_000_000


class Timeline:
    """A SpanSink that adds up spans per stage and interval of simulated time.

    Intervals are equal and begin at ``origin_ns``. Whenever the run outgrows ``intervals`` of them they are
    merged in pairs, so a finished run has between half of ``intervals`` and all of them, of a millisecond
    times a power of two; a run shorter than that has fewer. Sums are exact.
    """

    def __init__(self, pp_sizes: Sequence[int], origin_ns: int, *, intervals: int = 512) -> None:
        self.origin_ns = origin_ns
        self.interval_ns = _FIRST_INTERVAL_NS
        self._pp_sizes = tuple(pp_sizes)
        self._intervals = intervals + intervals % 2
        self._ns = [np.zeros((pp, self._intervals, len(CAUSE_NAMES)), dtype=np.int64) for pp in pp_sizes]
        self._end_ns = origin_ns

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        """Add the spans of an instance's stages."""
        latest = max((int(part.end_ns.max()) for part in spans if len(part.end_ns)), default=self._end_ns)
        self._end_ns = max(self._end_ns, latest)
        while self.origin_ns + self.interval_ns * self._intervals < self._end_ns:
            self._coarsen()
        for stage, part in enumerate(spans):
            self._add(self._ns[instance][stage], part)

    def table(self, instance: int) -> Int64Array:
        """ns of shape (stages, intervals so far, causes), columns as CAUSE_NAMES."""
        return self._ns[instance][:, : self._used()]

    def edges_ns(self) -> Int64Array:
        """Where the intervals so far begin, and the end of the last one."""
        edges = self.origin_ns + np.arange(self._used() + 1, dtype=np.int64) * self.interval_ns
        edges[-1] = min(int(edges[-1]), self._end_ns)
        return edges

    def frame(self) -> pl.DataFrame:
        """``timeline.parquet``: a row per instance, stage and interval, with ``begin_ns``, ``end_ns``,
        ``busy_ns`` and ``<cause>_ns``; they add up to the interval."""
        import polars as pl

        edges = self.edges_ns()
        frames: list[pl.DataFrame] = []
        for instance, pp_size in enumerate(self._pp_sizes):
            table = self.table(instance)
            used = table.shape[1]
            columns = {
                "instance": np.full(pp_size * used, instance, dtype=np.int64),
                "stage": np.repeat(np.arange(pp_size, dtype=np.int64), used),
                "begin_ns": np.tile(edges[:-1], pp_size),
                "end_ns": np.tile(edges[1:], pp_size),
            }
            for place, name in enumerate(CAUSE_NAMES):
                columns[f"{name}_ns"] = table[:, :, place].ravel()
            frames.append(pl.DataFrame(columns))
        return pl.concat(frames)

    def _used(self) -> int:
        return -(-(self._end_ns - self.origin_ns) // self.interval_ns)

    def _coarsen(self) -> None:
        """Merge neighbours."""
        self.interval_ns *= 2
        half = self._intervals // 2
        for table in self._ns:
            table[:, :half] = table[:, 0::2] + table[:, 1::2]
            table[:, half:] = 0

    def _add(self, table: Int64Array, spans: StageSpans) -> None:
        """Cut spans at the intervals' edges and add their pieces."""
        if not len(spans.begin_ns):
            return
        begin, end = spans.begin_ns - self.origin_ns, spans.end_ns - self.origin_ns
        first = begin // self.interval_ns
        pieces = (end - 1) // self.interval_ns - first + 1
        place = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        interval = np.repeat(first, pieces) + place
        left = np.maximum(np.repeat(begin, pieces), interval * self.interval_ns)
        right = np.minimum(np.repeat(end, pieces), (interval + 1) * self.interval_ns)
        np.add.at(table, (interval, np.repeat(spans.cause, pieces)), right - left)
