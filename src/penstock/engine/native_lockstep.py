"""Groups of data-parallel ranks in lock-step whose turns are taken in machine code, coordinator and front-ends too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock.cost.group_cost import GroupCost
from penstock.cost.lockstep import TabulatedGroupCost
from penstock.cost.step_cost import StepShape
from penstock.engine.build import BuiltInstance
from penstock.engine.kernel import Agenda
from penstock.engine.lockstep_replica import notes_of_rank
from penstock.engine.native_costs import NativeCosts
from penstock.engine.native_fleet import can_all_run
from penstock.engine.native_replica import NativeReplica, Segments, ids_of, segments_of
from penstock.recording.records import REQUEST_COLUMNS, TurnSink
from penstock.scheduler.request_state import RequestState
from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.options import RunOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request
from penstock.workload.workload import Workload

_INSTANCE = REQUEST_COLUMNS.index("instance")
_ANY = -1

EndedOfRanks = Callable[[bytes, Sequence[Segments]], None]
"""Called with requests that have left, in the order in which their ranks acted: rows of REQUEST_COLUMNS, int64, and the
token times of each where they are kept."""


class NativeRank(NativeReplica):
    """A rank of a group; ``deployment`` takes its turns."""

    def __init__(
        self,
        core: Any,
        built: BuiltInstance,
        deployment: NativeDeployment,
        *,
        options: RunOptions,
        sinks: Sequence[TurnSink],
    ) -> None:
        super().__init__(core, built, options=options, sinks=sinks)
        self._deployment = deployment
        self._rank = len(deployment.ranks)
        deployment.seat(self)

    def hand_over(self) -> None:
        """Its group tells who has left, in the order in which its ranks acted."""
        self._deployment.lockstep.hand_over()

    def _notes(self) -> tuple[str, ...]:
        return self._deployment.notes_of(self._rank)


class NativeDeployment:
    """One group: see :class:`~penstock.engine.data_parallel.DataParallelDeployment`. ``tail_ns[n]`` is how much longer
    a rank's last stage is busy with a real step of n requests; none: it is not."""

    def __init__(
        self,
        core: Any,
        lockstep: NativeLockstep,
        built: BuiltInstance,
        tail_ns: Sequence[int] = (),
    ) -> None:
        cost = built.group_cost
        assert cost is not None
        self.lockstep = lockstep
        self.options = built.spec.data_parallel
        self.ranks: list[NativeRank] = []
        self._cost: GroupCost = cost
        self._tables = cost if isinstance(cost, TabulatedGroupCost) and cost.is_plain else None
        self._group = lockstep.groups.add_group(
            self,
            _settings(self.options, built.spec.overhead.ipc_from_last_stage_ns),
            None if self._tables is None else self._tables.as_arrays(),
            NativeCosts(core, built.cost).tables,
            np.array(tail_ns, dtype=np.int64),
        )

    def seat(self, rank: NativeRank) -> None:
        """Take in the next rank."""
        self.lockstep.groups.seat(self._group, rank.engine, rank)
        self.ranks.append(rank)

    def take_in(self, now: int, state: RequestState, rank: int) -> int:
        """See :meth:`~penstock.engine.data_parallel.DataParallelDeployment.take_in`."""
        named = rank if self.options.load_balancing == "external" else _ANY
        return self.ranks[self.route(now, state.request, _ANY, named)].index

    def route(self, now: int, request: Request, front_end: int, rank: int) -> int:
        """A request comes to a front-end, -1 for the next, and names a rank, -1 for none. Returns its rank."""
        chosen: int = self.lockstep.groups.route(
            self._group,
            front_end,
            rank,
            now,
            request.index,
            request.arrival_ns,
            request.input_tokens,
            request.output_tokens,
            request.priority,
            ids_of(request.input_ids),
            ids_of(request.output_ids),
        )
        self.lockstep.came(request)
        return chosen

    def forward_ns(self, cells: bytes) -> tuple[Sequence[int], int] | None:
        """What the core asks for while it runs: times of the stages and padded tokens of a forward that its tables do
        not hold, or None once they do."""
        rows = np.frombuffer(cells, dtype=np.int64).reshape(len(self.ranks), -1).tolist()
        loads = [StepShape(*load) if is_real else None for is_real, *load in rows]
        if self._tables is None:
            return self._cost.forward_ns(loads), self._cost.padded_tokens(loads)
        self._tables.reach(max(0 if load is None else load.decodes for load in loads))
        self.lockstep.groups.replace(self._group, self._tables.as_arrays())
        return None

    def notes_of(self, rank: int) -> tuple[str, ...]:
        """What a reader of the results must know of a rank and of its group."""
        groups = self.lockstep.groups
        if self._tables is not None:
            outside = groups.take_outside(self._group)
            self._tables.count_beyond(list(zip(outside[::2], outside[1::2], strict=True)))
        forwards, padding, *waited_ns = groups.group_totals(self._group)
        dummies = groups.dummies(self._group)[rank]
        own = notes_of_rank(rank, len(self.ranks), dummies, forwards, padding, waited_ns[rank])
        return (*self._cost.notes(), *own)


class NativeLockstep:
    """An :class:`~penstock.engine.kernel.Actor`: all groups of a cluster with all that acts in them; ``built`` are the
    ranks by instance. With ``stops_on_end`` a call of :meth:`run_until` returns when a request has ended.
    ``tail_ns``: see :class:`NativeDeployment`."""

    def __init__(
        self,
        core: Any,
        built: Sequence[BuiltInstance],
        *,
        options: RunOptions,
        sinks: Sequence[TurnSink],
        on_end: EndedOfRanks,
        agenda: Agenda,
        tail_ns: Sequence[int] = (),
    ) -> None:
        self.next_ns: int | None = None
        self.stops_on_end = False
        self.groups = core.Lockstep()
        self.ranks: list[NativeRank] = []
        self.deployments: dict[int, NativeDeployment] = {}
        self._keeps_times = options.keep_token_times
        self._on_end = on_end
        self._agenda = agenda
        self._requests: dict[int, Request] = {}
        by_name: dict[str, NativeDeployment] = {}
        for one in built:
            name = one.spec.dp_group
            assert name is not None
            if name not in by_name:
                by_name[name] = NativeDeployment(core, self, one, tail_ns)
            rank = NativeRank(core, one, by_name[name], options=options, sinks=sinks)
            self.ranks.append(rank)
            self.deployments[one.spec.index] = by_name[name]

    def run_until(self, limit_ns: int) -> None:
        """Process all events before ``limit_ns``, or up to the end of a request.

        Raises:
            NoProgressError: a rank has unfinished requests, nothing in flight, and turn after turn schedules nothing.
        """
        self._acted(self.groups.run_until(limit_ns, self.stops_on_end))

    def can_serve(self, workload: Workload) -> bool:
        """Whether :meth:`serve` does: requests are nothing but their lengths, and none is refused."""
        if not len(workload) or workload.has_token_ids or workload.has_priorities or self.stops_on_end:
            return False
        return can_all_run(workload, self.ranks)

    def serve(self, workload: Workload) -> int:
        """Serve a workload that comes to the one group's front-ends, up to the last arrival; returns that.

        Raises:
            NoProgressError: as :meth:`run_until`.
        """
        rows, arrivals, inputs, outputs = workload.in_order()
        self._acted(self.groups.serve(rows, arrivals, inputs, outputs))
        self._rewake()
        return int(arrivals[-1])

    @property
    def next_arrival_ns(self) -> int:
        """Before when nobody comes who has not come yet, as far as :meth:`serve` knows."""
        at_ns: int | None = self.groups.next_arrival_ns()
        return NEVER_NS if at_ns is None else at_ns

    def _acted(self, stuck: int) -> None:
        self._stand()
        self.hand_over()
        if stuck >= 0:
            raise self.ranks[stuck].stuck()

    def deliver_messages(self, now: int) -> None:
        """What arrives at one instant arrives before what happens then."""
        self.groups.deliver_messages(now)
        self._rewake()

    def came(self, request: Request) -> None:
        """A request was sent to a rank."""
        if self.stops_on_end:
            self._requests[request.index] = request
        self._rewake()

    def forget(self, index: int) -> Request:
        """One that was sent while it ``stops_on_end``, and has ended."""
        return self._requests.pop(index)

    def hand_over(self) -> None:
        """Tell of those that have ended."""
        ended = self.groups.take_ended()
        if ended is None:
            return
        rows, times = ended
        segments: Sequence[Segments] = ()
        if self._keeps_times:
            at = np.frombuffer(rows, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS))[:, _INSTANCE]
            segments = segments_of([self.ranks[place].engine for place in at.tolist()], times)
        self._on_end(rows, segments)

    def _stand(self) -> None:
        self.next_ns = self.groups.next_ns()

    def _rewake(self) -> None:
        self._stand()
        if self.next_ns is not None:
            self._agenda.wake(self, self.next_ns)


def _settings(options: DataParallelOptions, back_ns: int) -> dict[str, int]:
    latencies = options.latencies
    return {
        "size": options.size,
        "sync_interval": options.sync_interval,
        "sync_ns": options.sync_ns,
        "prefill_schedule_interval": options.prefill_schedule_interval,
        "front_ends": options.front_ends,
        "nodes": options.nodes if options.load_balancing == "hybrid" else 1,
        "stats_interval_ms": options.stats_interval_ms,
        "is_external": int(options.load_balancing == "external"),
        "is_0_19": int(options.generation == "0.19"),
        "back_ns": back_ns,
        "front_end_to_engine_ns": latencies.front_end_to_engine_ns,
        "engine_to_front_end_ns": latencies.engine_to_front_end_ns,
        "front_end_to_coordinator_ns": latencies.front_end_to_coordinator_ns,
        "coordinator_to_front_end_ns": latencies.coordinator_to_front_end_ns,
        "engine_to_coordinator_ns": latencies.engine_to_coordinator_ns,
        "coordinator_to_engine_ns": latencies.coordinator_to_engine_ns,
    }
