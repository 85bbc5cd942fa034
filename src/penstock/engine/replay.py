"""One instance over a list of requests, watched turn by turn, in the schema of the vLLM recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.engine.admission import reason_to_reject
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replica import Replica
from penstock.errors import NoProgressError
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request


@dataclass(slots=True)
class ReplayTrace:
    """What happened. ``iterations`` are in the schema of the recordings with request indices for names;
    ``requests`` likewise, by index. ``rejected`` gives a reason for each request refused up front."""

    iterations: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[int, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    num_empty_schedules: int = 0
    num_idle_sleeps: int = 0
    num_engine_turns: int = 0
    end_ns: int = 0
    free_blocks_end: int = 0
    deadlock: bool = False
    cohort_turns: int = 0
    exact_turns: int = 0
    token_gaps: list[tuple[int, int]] = field(default_factory=list)


class _Recorder:
    """A watcher that writes down every step and every token of every request."""

    def __init__(self, trace: ReplayTrace) -> None:
        self.trace = trace
        self.replica: Replica | None = None
        self.pipeline: LocalPipeline | None = None
        self._row_of: dict[int, dict[str, Any]] = {}
        self._empty_before = 0
        self.free_before = 0

    def added(self, state: RequestState, now: int) -> None:
        self.trace.requests[state.request.index]["added_ns"] = now

    def scheduled(self, step: Step, now: int) -> None:
        replica = self.replica
        assert replica is not None
        status = replica.scheduler.status()
        if not step.tokens and not step.preempted:
            self._empty_before += 1
            self.free_before = status.free_blocks
            return
        scheduled, partial = _contents(step)
        for state, _, computed in scheduled:
            self._note_start(state, now, computed)
        row: dict[str, Any] = {
            "iter": len(self.trace.iterations),
            "t_schedule_ns": now,
            "t_done_ns": step.done_ns,
            "t_update_ns": None,
            "scheduled": [[state.request.index, new, computed] for state, new, computed in scheduled],
            "preempted": [state.request.index for state in step.preempted],
            "free_blocks_before": self.free_before,
            "free_blocks_after": status.free_blocks,
            "num_running": status.running,
            "num_waiting": status.waiting,
            "queue_len_before": replica.queue_length - 1,
            "empty_schedules_before": self._empty_before,
        }
        if step.tokens:
            assert self.pipeline is not None
            times = self.pipeline.latest_times
            row["stage_ns"] = [times[place + 1 : place + 3] for place in range(0, len(times), 3)]
        if partial:
            row["partial_prefill"] = partial
        self._empty_before = 0 if step.tokens else 1
        self.free_before = status.free_blocks
        self.trace.iterations.append(row)
        self._row_of[id(step)] = row

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        assert self.replica is not None
        self.free_before = self.replica.scheduler.status().free_blocks
        row = self._row_of.pop(id(step), None)
        if row is not None and step.tokens:
            row["t_update_ns"] = now
        for state in ended:
            entry = self.trace.requests[state.request.index]
            entry["finish_ns"] = now
            entry["finish_reason"] = "length"

    def _note_start(self, state: RequestState, now: int, computed: int) -> None:
        entry = self.trace.requests[state.request.index]
        if entry["first_scheduled_ns"] is None:
            entry["first_scheduled_ns"] = now
            entry["cached_tokens"] = computed
        elif state.order != entry["order"]:
            entry["resumes"].append([now, computed, state.num_tokens])
        entry["order"] = state.order

    def close(self, states: Sequence[RequestState]) -> None:
        """Complete every request's entry from its state."""
        for state in states:
            entry = self.trace.requests[state.request.index]
            del entry["order"]
            segments = list(state.segments)
            if state.cohort is not None:
                times = state.cohort.times
                segments.append((times, state.segment_start, len(times)))
            entry["first_token_ns"] = state.first_token_ns
            entry["token_times_ns"] = [t for times, start, stop in segments for t in times[start:stop]]
            entry["num_preemptions"] = state.preemptions


def _contents(step: Step) -> tuple[list[tuple[RequestState, int, int]], list[int]]:
    """The step in vLLM's order, and who in it has prompt left."""
    final = {id(state) for state in step.sampling}
    partial = [state.request.index for state, _, _ in step.chunks if id(state) not in final]
    return step.contents(), partial


def replay(
    config: SchedulerOptions,
    num_gpu_blocks: int,
    cost: PipelineCost,
    requests: Sequence[Request],
    *,
    exact_only: bool = False,
    reject_oversized: bool = True,
    overhead: EngineOverhead | None = None,
    until_ns: int = NEVER_NS,
) -> ReplayTrace:
    """Serve ``requests`` on one instance of ``len(cost.hops) + 1`` stages and write everything down.

    With ``reject_oversized`` a request that can never run is refused on arrival, as the real server does;
    without, it goes to the scheduler, and a deadlock that follows is recorded. A request that preempts itself for
    ever is recorded up to ``until_ns``; without an end it counts as a deadlock.
    """
    trace = ReplayTrace()
    recorder = _Recorder(trace)
    pp_size = len(cost.hops) + 1
    overhead = overhead or EngineOverhead()
    scheduler = make_scheduler(config, pp_size, num_gpu_blocks, exact_only=exact_only)
    pipeline = LocalPipeline(cost, pp_size, back_ns=overhead.ipc_from_last_stage_ns)
    replica = Replica(
        0, scheduler, pipeline, config, TurnLog(0, pp_size), overhead=overhead, watcher=recorder
    )
    replica.gives_up = until_ns == NEVER_NS
    recorder.replica, recorder.pipeline = replica, pipeline
    recorder.free_before = scheduler.kv.free
    states: list[RequestState] = []
    for request in requests:
        reason = reason_to_reject(request, config, scheduler.kv.usable) if reject_oversized else None
        if reason is not None:
            trace.rejected[request.index] = reason
            continue
        states.append(RequestState(request, config.max_model_len))
        trace.requests[request.index] = {
            "added_ns": None,
            "first_scheduled_ns": None,
            "first_token_ns": None,
            "finish_ns": None,
            "token_times_ns": [],
            "num_preemptions": 0,
            "cached_tokens": None,
            "resumes": [],
            "finish_reason": None,
            "order": None,
        }
    for state in sorted(states, key=lambda state: state.arrived_ns):
        replica.run_until(min(state.arrived_ns, until_ns))
        replica.deliver(state)
    try:
        replica.run_until(until_ns)
    except NoProgressError:
        trace.deadlock = True
    trace.deadlock |= replica.is_deadlocked
    recorder.close(states)
    replica.log.flush()
    trace.num_empty_schedules = replica.log.empty_schedules
    trace.num_idle_sleeps = replica.idle_sleeps
    trace.num_engine_turns = replica.turns
    trace.end_ns = replica.now_ns
    trace.free_blocks_end = scheduler.kv.free
    trace.cohort_turns = scheduler.cohort_turns
    trace.exact_turns = scheduler.exact_turns
    gaps = scheduler.token_gaps
    trace.token_gaps = list(zip(gaps[::2], gaps[1::2], strict=True))
    return trace
