"""A whole workload through instances in machine code, behind a router that needs nothing of Python's."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock.engine.admission import can_run
from penstock.engine.native_replica import NativeReplica, Segments, segments_of
from penstock.engine.outcomes import Outcomes
from penstock.engine.router import Foreseen
from penstock.recording.records import REQUEST_COLUMNS
from penstock.spec.options import SchedulerOptions
from penstock.units import Int64Array
from penstock.workload.workload import Workload

_KINDS = ("given", "load", "least tokens", "better of two")
_INSTANCE = REQUEST_COLUMNS.index("instance")


class NativeFleet:
    """Instances of ``core`` and how their requests are told apart. ``next_arrival_ns`` is before when nobody comes who
    has not come yet."""

    def __init__(
        self,
        core: Any,
        instances: Sequence[NativeReplica],
        outcomes: Outcomes,
        way_in_ns: Sequence[int],
        *,
        keep_token_times: bool,
    ) -> None:
        self.next_arrival_ns = 0
        self._core = core
        self._instances = instances
        self._outcomes = outcomes
        self._way_in_ns = np.array(way_in_ns, dtype=np.int64)
        self._keep_token_times = keep_token_times

    def serve(self, workload: Workload, choices: Foreseen) -> int:
        """Serve a workload all of whose requests :func:`can_all_run`, up to the last arrival; returns that.

        Raises:
            NoProgressError: an instance has work that can never run.
        """
        rows, arrivals, inputs, outputs = workload.in_order()
        deliver = None
        if workload.has_token_ids or workload.has_priorities:
            deliver = self._deliverer(workload, [rows, arrivals, inputs, outputs])
        stuck = self._core.serve_fleet(
            [one.engine for one in self._instances],
            self._instances,
            self._hand_over,
            _KINDS.index(choices.by),
            rows,
            arrivals,
            self._way_in_ns,
            inputs,
            outputs,
            choices.first,
            choices.second,
            deliver,
        )
        for one in self._instances:
            one.stand()
        if stuck >= 0:
            raise self._instances[stuck].stuck()
        return int(arrivals[-1])

    def _deliverer(self, workload: Workload, columns: list[Int64Array]) -> Callable[[int, int], None]:
        """What sends a request with all it has to an instance, both by their places."""
        rows, arrivals, inputs, outputs = (array("q", column.tobytes()) for column in columns)
        priorities = array("q", workload.priority.tobytes())
        engines = [one.engine for one in self._instances]
        ways_in = self._way_in_ns.tolist()

        def deliver(instance: int, place: int) -> None:
            row, at_ns = rows[place], arrivals[place]
            here_ns = at_ns + ways_in[instance]
            ids = workload.ids_at(row)
            engines[instance].deliver(
                row, at_ns, here_ns, inputs[place], outputs[place], priorities[row], *ids
            )

        return deliver

    def _hand_over(self, rows: bytes, times: bytes, next_arrival_ns: int) -> None:
        """Requests have left, in the order in which their instances acted; see ``EndedRows``."""
        self.next_arrival_ns = next_arrival_ns
        if not rows:
            return
        at = np.frombuffer(rows, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS))[:, _INSTANCE]
        segments: Sequence[Segments] = ()
        if self._keep_token_times:
            segments = segments_of([self._instances[place].engine for place in at.tolist()], times)
        self._outcomes.finished_rows(rows, segments, self._way_in_ns[at])


def can_all_run(workload: Workload, instances: Sequence[NativeReplica]) -> bool:
    """Whether each of them can run every request."""
    pools: list[tuple[SchedulerOptions, int]] = []
    for one in instances:
        if (one.options, one.usable_blocks) not in pools:
            pools.append((one.options, one.usable_blocks))
    inputs, outputs = workload.input_tokens, workload.output_tokens
    return all(bool(can_run(inputs, outputs, options, blocks).all()) for options, blocks in pools)
