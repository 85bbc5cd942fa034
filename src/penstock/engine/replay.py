"""One instance over a list of requests, watched turn by turn, in the schema of the vLLM recordings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.engine.admission import reason_to_reject
from penstock.engine.instance import Instance
from penstock.errors import NoProgressError
from penstock.pipeline.pipeline import Pipeline
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.options import EngineOverhead, SchedulerOptions
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
    """A tracer that writes down every step and every token of every request."""

    def __init__(self, trace: ReplayTrace) -> None:
        self.trace = trace
        self.instance: Instance | None = None
        self._row_of: dict[int, dict[str, Any]] = {}
        self._empty_before = 0
        self.free_before = 0

    def added(self, state: RequestState, now: int) -> None:
        self.trace.requests[state.request.index]["added_ns"] = now

    def scheduled(self, step: Step, now: int) -> None:
        instance = self.instance
        assert instance is not None
        scheduler = instance.scheduler
        if not step.tokens and not step.preempted:
            self._empty_before += 1
            self.free_before = scheduler.kv.free
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
            "free_blocks_after": scheduler.kv.free,
            "num_running": len(scheduler.running),
            "num_waiting": len(scheduler.waiting),
            "queue_len_before": instance.queue_length - 1,
            "empty_schedules_before": self._empty_before,
        }
        if step.tokens:
            row["stage_ns"] = instance.last_stage_times()
        if partial:
            row["partial_prefill"] = partial
        self._empty_before = 0 if step.tokens else 1
        self.free_before = scheduler.kv.free
        self.trace.iterations.append(row)
        self._row_of[id(step)] = row

    def updated(self, step: Step, now: int, finished: Sequence[RequestState]) -> None:
        assert self.instance is not None
        self.free_before = self.instance.scheduler.kv.free
        row = self._row_of.pop(id(step), None)
        if row is not None and step.tokens:
            row["t_update_ns"] = now
        for state in finished:
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
    members: list[tuple[RequestState, int, int]] = []
    if step.members and step.cohort is not None:
        computed = step.cohort.turn - 1
        members = [(state, 1, state.offset + computed) for state in step.cohort.members]
    scheduled = sorted([*members, *step.chunks], key=lambda entry: entry[0].order)
    final = {id(state) for state in step.graduates}
    partial = [state.request.index for state, _, _ in step.chunks if id(state) not in final]
    return scheduled, partial


def replay(
    config: SchedulerOptions,
    num_gpu_blocks: int,
    cost: PipelineCost,
    requests: Sequence[Request],
    *,
    exact_only: bool = False,
    reject_oversized: bool = True,
    overhead: EngineOverhead | None = None,
) -> ReplayTrace:
    """Serve ``requests`` on one instance of ``len(cost.hops) + 1`` stages and write everything down.

    With ``reject_oversized`` a request that can never run is refused on arrival, as the real server does;
    without, it goes to the scheduler, and a deadlock that follows is recorded.
    """
    trace = ReplayTrace()
    recorder = _Recorder(trace)
    scheduler = make_scheduler(config, len(cost.hops) + 1, num_gpu_blocks, exact_only=exact_only)
    pipeline = Pipeline(cost, len(cost.hops) + 1)
    instance = Instance(0, scheduler, cost, pipeline, overhead=overhead, tracer=recorder)
    recorder.instance = instance
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
    for state in sorted(states, key=lambda state: state.request.arrival_ns):
        instance.run_until(state.request.arrival_ns)
        instance.deliver(state)
    try:
        instance.run_until(sys.maxsize)
    except NoProgressError:
        trace.deadlock = True
    recorder.close(states)
    trace.num_empty_schedules = instance.empty_schedules
    trace.num_idle_sleeps = instance.idle_sleeps
    trace.num_engine_turns = instance.turns
    trace.end_ns = instance.now_ns
    trace.free_blocks_end = scheduler.kv.free
    trace.cohort_turns = scheduler.cohort_turns
    trace.exact_turns = scheduler.exact_turns
    gaps = scheduler.token_gaps
    trace.token_gaps = list(zip(gaps[::2], gaps[1::2], strict=True))
    return trace
