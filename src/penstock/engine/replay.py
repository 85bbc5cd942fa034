"""One replica over a list of requests, watched turn by turn, in the schema of the vLLM recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.engine.admission import reason_to_reject
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replay_rows import RequestRows, StepRows
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


class Recorder:
    """A watcher that writes down every step and every token of every request. ``times_empty_steps``: also when the
    result of a step was taken that only preempted."""

    def __init__(self, *, times_empty_steps: bool = False) -> None:
        self.requests = RequestRows()
        self.steps = StepRows(self.requests, times_empty_steps=times_empty_steps)
        self.replica: Replica | None = None
        self.pipeline: LocalPipeline | None = None

    def added(self, state: RequestState, now: int) -> None:
        self.requests.added(state, now)

    def scheduled(self, step: Step, now: int) -> None:
        replica, pipeline = self.replica, self.pipeline
        assert replica is not None
        assert pipeline is not None
        row = self.steps.scheduled(step, now, replica.scheduler.status(), replica.queue_length - 1)
        if row is not None and step.tokens:
            times = pipeline.latest_times
            row["stage_ns"] = [times[place + 1 : place + 3] for place in range(0, len(times), 3)]

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        assert self.replica is not None
        self.steps.updated(step, now, ended, self.replica.scheduler.status())


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
    """Serve ``requests`` on one replica of ``len(cost.hops) + 1`` stages and write everything down.

    With ``reject_oversized`` a request that can never run is refused on arrival, as the real server does;
    without, it goes to the scheduler, and a deadlock that follows is recorded. A request that preempts itself for
    ever is recorded up to ``until_ns``; without an end it counts as a deadlock.
    """
    trace = ReplayTrace()
    recorder = Recorder()
    pp_size = len(cost.hops) + 1
    overhead = overhead or EngineOverhead()
    scheduler = make_scheduler(config, pp_size, num_gpu_blocks, exact_only=exact_only)
    pipeline = LocalPipeline(cost, pp_size, back_ns=overhead.ipc_from_last_stage_ns)
    replica = Replica(
        0, scheduler, pipeline, config, TurnLog(0, pp_size), overhead=overhead, watcher=recorder
    )
    replica.gives_up = until_ns == NEVER_NS
    recorder.replica, recorder.pipeline = replica, pipeline
    recorder.steps.free_before = scheduler.kv.free
    states: list[RequestState] = []
    for request in requests:
        reason = reason_to_reject(request, config, scheduler.kv.usable) if reject_oversized else None
        if reason is not None:
            trace.rejected[request.index] = reason
            continue
        states.append(RequestState(request, config.max_model_len))
        recorder.requests.expect(states[-1])
    try:
        for state in sorted(states, key=lambda state: state.arrived_ns):
            replica.run_until(min(state.arrived_ns, until_ns))
            replica.deliver(state)
        replica.run_until(until_ns)
    except NoProgressError:
        trace.deadlock = True
    trace.deadlock |= replica.is_deadlocked
    recorder.requests.close(states)
    trace.iterations = recorder.steps.iterations
    trace.requests = recorder.requests.rows
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
