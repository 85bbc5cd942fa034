"""Data-parallel ranks in lock-step with their front-ends and their coordinator, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.engine.replay_group import ArrivingRequest, GroupTrace
from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request

from .front_ends import Coordinator, FrontEnd
from .lockstep import Group, GroupCost
from .rank import Mail, Rank
from .scheduler import ReferenceScheduler
from .virtual_time import VirtualTime


class Deployment:
    """A group of ranks with its front-ends and its coordinator, and all that is written down of a run."""

    def __init__(
        self,
        options: DataParallelOptions,
        scheduler_options: SchedulerOptions,
        num_gpu_blocks: int,
        cost: GroupCost,
        arriving: Sequence[ArrivingRequest],
    ) -> None:
        self.options = options
        self.time = VirtualTime()
        self.group = Group(self.time, options, cost, tokens_back=scheduler_options.async_scheduling)
        self.routing: list[dict[str, Any]] = []
        self.publishes: list[list[Any]] = []
        self.start_waves: list[list[Any]] = []
        self.engine_messages: list[list[Any]] = []
        self.front_ends = _front_ends(options)
        self.coordinator = Coordinator(self.time, options, self._broadcast, self._publish)
        self.ranks = [
            Rank(
                rank,
                self.time,
                self.group,
                options,
                ReferenceScheduler(scheduler_options, num_gpu_blocks, cost.stages),
                self._mail_of(rank),
            )
            for rank in range(options.size)
        ]
        self._home: dict[int, FrontEnd] = {}
        self._on_the_way_to_engines = 0
        self.rank_of: dict[int, int] = {}
        for each in sorted(arriving, key=lambda each: each.request.arrival_ns):
            self._expect(each.request, self.front_ends[each.front_end], each.rank)

    def _expect(self, request: Request, front_end: FrontEnd, rank: int | None) -> None:
        self.time.arrivals.append((request.arrival_ns, lambda: self._route(request, front_end, rank)))

    def run(self) -> None:
        """Until nothing is left that could make an engine act."""
        self.time.run([self.coordinator, *self.ranks], over=self._over)

    def trace(self) -> GroupTrace:
        """All that was written down."""
        iterations = [row for rank in self.ranks for row in rank.trace.iterations]
        dummies = [row for rank in self.ranks for row in rank.dummies]
        return GroupTrace(
            iterations=sorted(iterations, key=lambda row: (row["t_schedule_ns"], row["rank"], row["iter"])),
            requests={
                index: {"rank": rank, **self.ranks[rank].trace.requests[index]}
                for index, rank in self.rank_of.items()
            },
            dummies=sorted(dummies, key=lambda row: (row["fwd"], row["rank"])),
            forwards=[self.group.row(forward) for forward in self.group.forwards],
            syncs=self.group.sync_rows,
            routing=self.routing,
            publishes=self.publishes,
            start_waves=self.start_waves,
            engine_messages=self.engine_messages,
            num_empty_schedules=[rank.trace.num_empty_schedules for rank in self.ranks],
            num_idle_sleeps=[rank.trace.num_idle_sleeps for rank in self.ranks],
            free_blocks_end=[len(rank.scheduler.kv.free) for rank in self.ranks],
            final_wave=[rank.wave for rank in self.ranks],
            end_ns=self.time.now,
        )

    def _over(self) -> bool:
        return not self._on_the_way_to_engines and all(rank.idle for rank in self.ranks)

    def _send_to_engine(self, latency_ns: int, engine: Rank, *message: Any) -> None:
        self._on_the_way_to_engines += 1

        def deliver() -> None:
            self._on_the_way_to_engines -= 1
            engine.receive(*message)

        self.time.send(latency_ns, deliver)

    def _route(self, request: Request, front_end: FrontEnd, named: int | None) -> None:
        """vLLM's ``add_request_async``."""
        latencies = self.options.latencies
        row: dict[str, Any] = {"req_id": request.index, "t_ns": self.time.now, "client": front_end.index}
        if self.options.load_balancing != "external":
            row["counts"] = [list(counts) for counts in front_end.counts]
            row["inflight"] = list(front_end.in_flight)
            row["start_index"] = front_end.start_index
        wave, believed_running = front_end.wave, front_end.engines_running
        rank = front_end.choose() if named is None else named
        row.update(rank=rank, wave=wave, engines_running=believed_running)
        self.routing.append(row)
        self._home[request.index] = front_end
        self.rank_of[request.index] = rank
        front_end.sent_to(rank)
        engine = self.ranks[rank]
        engine.trace.expect(request)
        self._send_to_engine(latencies.front_end_to_engine_ns, engine, "add", request, wave)
        if not believed_running:
            front_end.engines_running = True
            self.time.send(
                latencies.front_end_to_coordinator_ns,
                lambda: self.coordinator.from_front_ends.append((rank, wave)),
            )

    def _broadcast(self, wave: int, exclude: Any) -> None:
        self.start_waves.append([self.time.now, wave, exclude])
        for engine in self.ranks:
            self._send_to_engine(
                self.options.latencies.coordinator_to_engine_ns, engine, "start", wave, exclude
            )

    def _publish(self, counts: list[list[float]] | None, wave: int, running: bool) -> None:
        self.publishes.append([self.time.now, counts, wave, running])
        for front_end in self.front_ends:
            self.time.send(
                self.options.latencies.coordinator_to_front_end_ns,
                lambda front_end=front_end: front_end.hear(counts, wave, running=running),
            )

    def _mail_of(self, rank: int) -> Mail:
        def to_coordinator(kind: str, sender: int, *rest: Any) -> None:
            self.engine_messages.append([self.time.now, sender, kind, *rest])
            self.time.send(
                self.options.latencies.engine_to_coordinator_ns,
                lambda: self.coordinator.from_engines.append((kind, sender, *rest)),
            )

        def finished(requests: Sequence[int]) -> None:
            if self.options.load_balancing == "external":
                return
            for front_end in self.front_ends:
                ours = sum(self._home[index] is front_end for index in requests)
                if ours:
                    self.time.send(
                        self.options.latencies.engine_to_front_end_ns,
                        lambda front_end=front_end, ours=ours: front_end.finished_on(rank, ours),
                    )

        return Mail(to_coordinator, finished)


def _front_ends(options: DataParallelOptions) -> list[FrontEnd]:
    if options.load_balancing == "external":
        return [FrontEnd(options, [rank], 0) for rank in range(options.size)]
    if options.load_balancing == "internal":
        return [FrontEnd(options, range(options.size), index) for index in range(options.front_ends)]
    per_node = options.size // options.nodes
    return [
        FrontEnd(options, range(node * per_node, (node + 1) * per_node), index)
        for node in range(options.nodes)
        for index in range(options.front_ends)
    ]


def serve(
    options: DataParallelOptions,
    scheduler: SchedulerOptions,
    num_gpu_blocks: int,
    cost: GroupCost,
    arriving: Sequence[ArrivingRequest],
) -> GroupTrace:
    """Serve ``arriving`` on a group of ranks."""
    deployment = Deployment(options, scheduler, num_gpu_blocks, cost, arriving)
    deployment.run()
    return deployment.trace()
