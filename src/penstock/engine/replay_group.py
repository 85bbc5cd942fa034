"""Ranks in lock-step over a list of requests, watched turn by turn, in the schema of the recordings of vLLM's
data-parallel engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from penstock.cost.group_cost import GroupCost
from penstock.cost.step_cost import HopCost
from penstock.engine.data_parallel import DataParallelDeployment
from penstock.engine.front_end import FrontEnd
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.lockstep import FinishSync, Forward, LockstepGroup
from penstock.engine.lockstep_replica import LockstepReplica
from penstock.engine.replay_rows import RequestRows, StepRows
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.options import SchedulerOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request


class ReplayedGroupCost(GroupCost, Protocol):
    """What a replay asks of a cost beside that of forwards."""

    def hop(self, max_tokens: int) -> HopCost:
        """The hop between two stages."""
        ...

    @property
    def stages(self) -> int:
        """Stages of each rank."""
        ...

    def tail_ns(self, requests: int) -> int:
        """How much longer a rank's last stage is busy with a real step of so many requests."""
        ...


@dataclass(frozen=True, slots=True)
class ArrivingRequest:
    """A request, the front-end that it comes to, and the rank that it names, if it names one."""

    request: Request
    front_end: int
    rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTrace:
    """What a group of ranks did, in the recordings' schema, with request indices for names.

    ``iterations`` are in the order of time, rank, iteration, without what follows from other lists (``stage_ns``,
    ``preempted_detail``). ``requests`` maps an index to its row, ``rank`` included. The lists of four totals have
    an entry per rank.
    """

    iterations: list[dict[str, Any]]
    requests: dict[int, dict[str, Any]]
    dummies: list[dict[str, Any]]
    forwards: list[dict[str, Any]]
    syncs: list[dict[str, Any]]
    routing: list[dict[str, Any]]
    publishes: list[list[Any]]
    start_waves: list[list[Any]]
    engine_messages: list[list[Any]]
    num_empty_schedules: list[int]
    num_idle_sleeps: list[int]
    free_blocks_end: list[int]
    final_wave: list[int]
    end_ns: int


class _RankRecorder:
    """Writes down the steps and dummies of one rank."""

    def __init__(self, requests: RequestRows) -> None:
        self.rows = StepRows(requests)
        self.dummies: list[dict[str, Any]] = []
        self.replica: LockstepReplica | None = None

    def added(self, state: RequestState, now: int) -> None:
        self.rows.requests.added(state, now)

    def scheduled(self, step: Step, now: int) -> None:
        replica = self.replica
        assert replica is not None
        row = self.rows.scheduled(step, now, replica.scheduler.status(), replica.queue_length - 1)
        if row is None:
            return
        row.update(rank=replica.rank, step_counter=replica.step_counter, wave=replica.wave)
        if replica.throttles:
            row["throttled"] = True
        if step.tokens:
            row["fwd"] = replica.pipeline.submitted - 1

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        assert self.replica is not None
        self.rows.updated(step, now, ended, self.replica.scheduler.status())

    def dummy(self, replica: LockstepReplica, submitted_ns: int, returned_ns: int) -> None:
        self.dummies.append(
            {
                "rank": replica.rank,
                "fwd": replica.pipeline.submitted - 1,
                "step_counter": replica.step_counter,
                "wave": replica.wave,
                "t_submit_ns": submitted_ns,
                "t_done_ns": replica.pipeline.dummy.done_ns,
                "t_return_ns": returned_ns,
            }
        )


class _GroupRecorder:
    """Writes down what ranks, front-ends and coordinator do together."""

    def __init__(self, *, external: bool) -> None:
        self.forwards: list[dict[str, Any]] = []
        self.syncs: list[dict[str, Any]] = []
        self.route: list[dict[str, Any]] = []
        self.publishes: list[list[Any]] = []
        self.start_waves: list[list[Any]] = []
        self.engine_messages: list[list[Any]] = []
        self._external = external

    def ran(self, forward: Forward, stage_ns: Sequence[tuple[int, int]], done_ns: Sequence[int]) -> None:
        steps = forward.steps
        self.forwards.append(
            {
                "fwd": forward.index,
                "n": [1 if step is None else step.tokens for step in steps],
                "kv": [0 if step is None else step.prefill_context + step.decode_context for step in steps],
                "dummy": [rank for rank, step in enumerate(steps) if step is None],
                "t_submit_ns": list(forward.entry_ns),
                "stage_ns": [list(span) for span in stage_ns],
                "t_done_ns": list(done_ns),
            }
        )

    def synced(self, sync: FinishSync, wave: int, step_counter: int) -> None:
        self.syncs.append(
            {
                "t_ns": sync.at_ns,
                "wave": wave,
                "step_counter": step_counter,
                "unfinished": list(sync.unfinished),
                "t_enter_ns": list(sync.entered_ns),
            }
        )

    def routing(self, now: int, state: RequestState, front_end: FrontEnd) -> None:
        row: dict[str, Any] = {"req_id": state.request.index, "t_ns": now, "client": front_end.index}
        if not self._external:
            row["counts"] = [list(counts) for counts in front_end.counts]
            row["inflight"] = list(front_end.in_flight)
            row["start_index"] = front_end.start_index
        row.update(rank=None, wave=front_end.wave, engines_running=front_end.engines_running)
        self.route.append(row)

    def routed(self, state: RequestState, rank: int) -> None:
        self.route[-1]["rank"] = rank

    def said(self, now: int, kind: str, message: tuple[Any, ...]) -> None:
        if kind == "publish":
            counts, *rest = message
            self.publishes.append([now, counts and [list(each) for each in counts], *rest])
        elif kind == "broadcast":
            self.start_waves.append([now, *message])
        else:
            self.engine_messages.append([now, message[0], kind, *message[1:]])


def replay_group(
    options: DataParallelOptions,
    scheduler: SchedulerOptions,
    num_gpu_blocks: int,
    cost: ReplayedGroupCost,
    arriving: Sequence[ArrivingRequest],
    *,
    exact_only: bool = False,
) -> GroupTrace:
    """Serve ``arriving`` on a group of ranks and write everything down, until only the coordinator's timer is left."""
    agenda = Agenda()
    recorder = _GroupRecorder(external=options.load_balancing == "external")
    group = LockstepGroup(
        cost,
        options.size,
        [cost.hop(scheduler.max_num_batched_tokens)] * (cost.stages - 1),
        [0] * (scheduler.max_num_seqs + 1),
        sync_ns=options.sync_ns,
        tail_ns=cost.tail_ns,
    )
    group.watcher = recorder
    deployment = DataParallelDeployment(agenda, options)
    deployment.watcher = recorder
    requests = RequestRows()
    of_rank = [_RankRecorder(requests) for _ in range(options.size)]
    ranks: list[LockstepReplica] = []
    for rank, rank_recorder in enumerate(of_rank):
        replica = LockstepReplica(
            rank,
            rank,
            make_scheduler(scheduler, cost.stages, num_gpu_blocks, exact_only=exact_only),
            group,
            scheduler,
            options,
            TurnLog(rank, cost.stages),
            agenda=agenda,
            tell=deployment.tell,
            tell_ended=partial(deployment.tell_ended, rank),
            watcher=rank_recorder,
        )
        replica.rank_watcher = rank_recorder
        rank_recorder.replica = replica
        rank_recorder.rows.free_before = replica.scheduler.status().free_blocks
        agenda.add(replica, Phase.ENGINE, rank)
        ranks.append(replica)
    deployment.complete(ranks)
    states = [RequestState(each.request, scheduler.max_model_len) for each in arriving]
    rank_of: dict[int, int] = {}
    end_ns = 0
    order = sorted(range(len(arriving)), key=lambda place: arriving[place].request.arrival_ns)
    for place in order:
        each, state = arriving[place], states[place]
        at_ns = each.request.arrival_ns
        end_ns = max(_run_before(agenda, at_ns, deployment, is_last=False), at_ns)
        requests.expect(state)
        rank_of[each.request.index] = deployment.route(
            at_ns, state, deployment.front_ends[each.front_end], each.rank
        )
    end_ns = max(end_ns, _run_before(agenda, NEVER_NS, deployment, is_last=True))
    requests.close(states)
    for replica in ranks:
        replica.log.flush()
    iterations = [row for each in of_rank for row in each.rows.iterations]
    return GroupTrace(
        iterations=sorted(iterations, key=lambda row: (row["t_schedule_ns"], row["rank"], row["iter"])),
        requests={
            index: {"rank": rank_of[index], **row} for index, row in requests.rows.items() if index in rank_of
        },
        dummies=sorted(
            (row for each in of_rank for row in each.dummies), key=lambda row: (row["fwd"], row["rank"])
        ),
        forwards=recorder.forwards,
        syncs=recorder.syncs,
        routing=recorder.route,
        publishes=recorder.publishes,
        start_waves=recorder.start_waves,
        engine_messages=recorder.engine_messages,
        num_empty_schedules=[replica.log.empty_schedules for replica in ranks],
        num_idle_sleeps=[replica.idle_sleeps for replica in ranks],
        free_blocks_end=[replica.scheduler.status().free_blocks for replica in ranks],
        final_wave=[replica.wave for replica in ranks],
        end_ns=end_ns,
    )


def _run_before(agenda: Agenda, limit_ns: int, deployment: DataParallelDeployment, *, is_last: bool) -> int:
    """Let everyone act before ``limit_ns``, and messages be delivered that arrive then; returns the latest time at
    which somebody acted. Where no request comes any more, it ends when the next to act would be the coordinator, by
    its timer alone."""
    latest = 0
    while True:
        at_ns = agenda.next_ns()
        if at_ns > limit_ns or (at_ns == limit_ns and not agenda.next_is(Phase.MESSAGE)):
            return latest
        timer_ns = deployment.coordinator.timer_ns
        timer_is_next = timer_ns is not None and (
            timer_ns < at_ns or (timer_ns == at_ns and not agenda.next_is(Phase.MESSAGE))
        )
        if is_last and timer_is_next and deployment.is_quiet():
            return latest
        latest = max(latest, at_ns)
        agenda.run_next(at_ns + 1, alone=False)
