"""Where the time of an instance's stages went, in sum, counted in machine code."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.accounting.stage_spans import StageCause, uncovered
from penstock.machine_code import core
from penstock.recording.records import Int64Array, TurnChunk


class TimeCounter:
    """What a :class:`~penstock.accounting.stage_spans.GapSplitter` gives as spans, summed by stage and cause; for
    instances that are not in lock-step with others."""

    def __init__(self, splitter: Any, pp_size: int) -> None:
        self._splitter = splitter
        self._shape = (pp_size, len(StageCause))

    @classmethod
    def of(cls, pp_size: int, *, blocking_sends: bool) -> TimeCounter | None:
        """A counter; None where there is no machine code."""
        machine = core()
        return None if machine is None else cls(machine.Splitter(pp_size, blocking_sends), pp_size)

    def accept(self, chunk: TurnChunk) -> None:
        """Account for the chunk's turns."""
        self._splitter.accept(np.ascontiguousarray(chunk.values))

    def so_far_ns(self) -> Int64Array:
        """What is over for sure, shape (stages, causes)."""
        return self._table(self._splitter.so_far())

    def finish(self, window_start_ns: int, window_end_ns: int) -> Int64Array:
        """The whole window, shape (stages, causes).

        Raises:
            ValueError: the instance was at work outside the window.
        """
        answer = self._splitter.finish(window_start_ns, window_end_ns)
        if isinstance(answer, tuple):
            raise uncovered(window_start_ns, window_end_ns, *answer)
        return self._table(answer)

    def _table(self, ns: bytes) -> Int64Array:
        return np.frombuffer(ns, dtype=np.int64).reshape(self._shape).copy()
