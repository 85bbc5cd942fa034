"""A replica whose hops share links with others: it learns when a step is done only once the links have said so."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

from penstock.engine.instance import DONE_COLUMN, Instance
from penstock.pipeline.contended import ContendedPipeline
from penstock.recording.records import TURN_COLUMNS
from penstock.scheduler.step import Step

UNKNOWN_NS = sys.maxsize


class ContendedInstance(Instance):
    """``next_ns`` is also when a step next asks for a shared link: the simulation lets instances act in the order
    of time, so that links are granted first come, first served. ``done_ns`` of an empty step does not count the
    steps before it that are still on their way; the engine takes it after theirs all the same."""

    contended = True

    @property
    def _links(self) -> ContendedPipeline:
        return cast("ContendedPipeline", self.pipeline)

    def run_until(self, limit_ns: int) -> None:
        """As :meth:`Instance.run_until`, with the transfers over shared links between the engine's events."""
        pipeline = self._links
        while True:
            transfer = pipeline.next_transfer_ns
            bound = limit_ns if transfer is None else min(limit_ns, transfer)
            super().run_until(bound)
            engine = self.next_ns
            transfer = pipeline.next_transfer_ns
            if transfer is None:
                return
            next_ns = transfer if engine is None else min(engine, transfer)
            if next_ns >= limit_ns or (engine is not None and engine < bound):
                self.next_ns = next_ns
                return
            if transfer == next_ns:
                pipeline.grant()

    def _launch(self, step: Step, entry_ns: int, compute_ns: Sequence[int]) -> list[int]:
        # Where the row of this turn will begin, counted over the whole run; it is completed when the way is known,
        # which is before the engine can take the result, and so before the row is handed on.
        cell = self._flushed_turns * self._width + len(self._trace)
        step.done_ns = UNKNOWN_NS
        known: list[int] = []

        def arrived(end_ns: int, times: list[int]) -> None:
            step.end_ns = end_ns
            step.done_ns = end_ns + self._return_ns[step.sampled] + self._back_ns
            known.extend(times)
            place = cell - self._flushed_turns * self._width
            if place < len(self._trace):
                self._trace[place + DONE_COLUMN] = step.done_ns
                stages = place + len(TURN_COLUMNS)
                self._trace[stages : stages + len(times)] = times

        self._links.launch(entry_ns, step.tokens, compute_ns, arrived)
        return known or [0] * (3 * self.pipeline.pp_size)
