"""vLLM's engine loop (``engine/core.py: EngineCoreProc``) in virtual time, with a pipeline that only has clocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request

from .scheduler import Departures, ReferenceScheduler, RequestState, Schedule

IDLE_TURNS_OF_A_DEADLOCK = 21


@dataclass
class ReferenceTrace:
    """What happened, in the schema of the recordings, with request indices for names."""

    iterations: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[int, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    num_empty_schedules: int = 0
    num_idle_sleeps: int = 0
    num_engine_turns: int = 0
    end_ns: int = 0
    free_blocks_end: int = 0
    deadlock: bool = False


class VirtualPipeline:
    """When each stage and link is free next. A step's whole way is known when it is submitted."""

    def __init__(self, cost: PipelineCost) -> None:
        self.cost = cost
        self.stages = len(cost.hops) + 1
        self.stage_free = [0] * self.stages
        self.link_free = [0] * len(cost.hops)

    def submit(self, now: int, schedule: Schedule, previous_tokens_ns: int) -> tuple[list[list[int]], int]:
        """Start and end of every stage, and when the sampled tokens are back. ``previous_tokens_ns``: stage 0
        cannot start before, as it needs the tokens sampled then."""
        prefills = [chunk for chunk in schedule.chunks if chunk.new > 1]
        decodes = [chunk.computed for chunk in schedule.chunks if chunk.new == 1]
        sampled = sum(chunk.samples for chunk in schedule.chunks)
        compute = self.cost.stage.stage_ns(
            sum(chunk.new for chunk in prefills),
            sum(chunk.computed for chunk in prefills),
            len(decodes),
            sum(decodes),
            min(decodes, default=0),
            max(decodes, default=0),
            sampled,
        )
        tokens = schedule.tokens
        arrival = max(now, previous_tokens_ns)
        times: list[list[int]] = []
        for stage in range(self.stages):
            start = max(self.stage_free[stage], arrival)
            end = start + compute[stage]
            self.stage_free[stage] = end
            times.append([start, end])
            if stage < self.stages - 1:
                hop = self.cost.hops[stage]
                sent = max(self.link_free[stage], end)
                self.link_free[stage] = sent + hop.occupancy_ns[tokens]
                arrival = sent + hop.arrival_ns[tokens]
        return times, times[-1][1] + self.cost.token_return_ns[sampled]


@dataclass(frozen=True, slots=True)
class Step:
    """A step in the batch queue; ``row`` is its iteration, None if it scheduled nothing."""

    schedule: Schedule
    done_ns: int
    row: dict[str, Any] | None


class ReferenceEngine:
    """One engine core: the loop, its clock and the trace it writes."""

    def __init__(
        self, scheduler: ReferenceScheduler, cost: PipelineCost, requests: Iterable[Request]
    ) -> None:
        self.scheduler = scheduler
        self.options = scheduler.options
        self.pipeline = VirtualPipeline(cost)
        self.arrivals = deque(sorted(requests, key=lambda request: request.arrival_ns))
        self.now = 0
        self.queue: deque[Step] = deque()
        self.trace = ReferenceTrace()
        self._empty_before = 0
        self._idle_turns = 0
        self._token_ready_ns: dict[int, int] = {}

    def run(self) -> ReferenceTrace:
        """Turn until nothing is left to do, or nothing can be done."""
        while not self.trace.deadlock:
            if not self.scheduler.has_requests() and not self.queue:
                if not self.arrivals:
                    break
                self.now = max(self.now, self.arrivals[0].arrival_ns)
            self._take_arrivals()
            self._turn()
        self.trace.end_ns = self.now
        self.trace.free_blocks_end = len(self.scheduler.kv.free)
        return self.trace

    def _take_arrivals(self) -> None:
        while self.arrivals and self.arrivals[0].arrival_ns <= self.now:
            request = self.arrivals.popleft()
            self.scheduler.add(request)
            self.trace.requests[request.index]["added_ns"] = self.now

    def _turn(self) -> None:
        """vLLM's ``_process_engine_step``: a step, then a sleep if it ran nothing and requests remain."""
        self.trace.num_engine_turns += 1
        executed = self._step() if self.options.max_in_flight == 1 else self._step_with_batch_queue()
        if executed or not self.scheduler.has_requests():
            self._idle_turns = 0
            return
        self.trace.num_idle_sleeps += 1
        self.now += self.options.engine_idle_sleep_ns
        self._watch_for_deadlock()

    def _watch_for_deadlock(self) -> None:
        if any(step.row for step in self.queue):
            self._idle_turns = 0
            return
        self._idle_turns += 1
        if self._idle_turns < IDLE_TURNS_OF_A_DEADLOCK:
            return
        if self.arrivals:
            self.now = max(self.now, self.arrivals[0].arrival_ns)
            self._idle_turns = 0
        else:
            self.trace.deadlock = True

    def _step(self) -> bool:
        if not self.scheduler.has_requests():
            return False
        step = self._submit()
        self._await(step)
        return bool(step.schedule.chunks)

    def _step_with_batch_queue(self) -> bool:
        """Fill the queue first, with empty steps too; block on the oldest only when it is full."""
        executed = False
        if self.scheduler.has_requests():
            step = self._submit()
            executed = bool(step.schedule.chunks)
            takes_slot = executed or self.scheduler.departures.empty_steps_take_slots
            if takes_slot:
                self.queue.append(step)
                if len(self.queue) < self.options.max_in_flight and (
                    executed or self.scheduler.has_requests()
                ):
                    return executed
        if self.queue and not self._woken_by_arrival():
            self._await(self.queue.popleft())
        return executed

    def _woken_by_arrival(self) -> bool:
        """A departure: go on with an arrival before the oldest step is done, if the queue has room."""
        if self.scheduler.departures.blocks_on_oldest_step or len(self.queue) >= self.options.max_in_flight:
            return False
        if not self.arrivals or self.arrivals[0].arrival_ns >= self.queue[0].done_ns:
            return False
        self.now = max(self.now, self.arrivals[0].arrival_ns)
        return True

    def _submit(self) -> Step:
        free_before = len(self.scheduler.kv.free)
        schedule = self.scheduler.schedule()
        if not schedule.chunks:
            self.trace.num_empty_schedules += 1
            done = max(self.now, self.pipeline.stage_free[-1])
            if not schedule.preemptions:
                self._empty_before += 1
                return Step(schedule, done, None)
            row = self._row(schedule, free_before)
            row.update(t_done_ns=done)
            self._empty_before = 1
            return Step(schedule, done, None)
        stage_ns, done = self._run(schedule)
        row = self._row(schedule, free_before)
        row.update(t_done_ns=done, stage_ns=stage_ns)
        self._empty_before = 0
        return Step(schedule, done, row)

    def _run(self, schedule: Schedule) -> tuple[list[list[int]], int]:
        waits_for_tokens = self.options.async_scheduling and self.pipeline.stages > 1
        previous = max(self._token_ready_ns.get(chunk.state.request.index, 0) for chunk in schedule.chunks)
        stage_ns, done = self.pipeline.submit(self.now, schedule, previous if waits_for_tokens else 0)
        for chunk in schedule.chunks:
            if chunk.samples:
                self._token_ready_ns[chunk.state.request.index] = stage_ns[-1][1]
        return stage_ns, done

    def _row(self, schedule: Schedule, free_before: int) -> dict[str, Any]:
        scheduler = self.scheduler
        row: dict[str, Any] = {
            "iter": len(self.trace.iterations),
            "t_schedule_ns": self.now,
            "t_done_ns": None,
            "t_update_ns": None,
            "scheduled": [
                [chunk.state.request.index, chunk.new, chunk.computed] for chunk in schedule.chunks
            ],
            "preempted": [each.state.request.index for each in schedule.preemptions],
            "free_blocks_before": free_before,
            "free_blocks_after": len(scheduler.kv.free),
            "num_running": len(scheduler.running),
            "num_waiting": len(scheduler.waiting),
            "queue_len_before": len(self.queue),
            "empty_schedules_before": self._empty_before,
        }
        if schedule.preemptions:
            row["preempted_detail"] = [
                {
                    "req_id": each.state.request.index,
                    "num_tokens": each.num_tokens,
                    "num_computed": each.computed,
                    "in_flight": self._steps_in_flight(each.state),
                }
                for each in schedule.preemptions
            ]
        partial = [chunk.state.request.index for chunk in schedule.chunks if not chunk.samples]
        if partial:
            row["partial_prefill"] = partial
        self._note_requests(schedule)
        self.trace.iterations.append(row)
        return row

    def _steps_in_flight(self, state: RequestState) -> int:
        return sum(chunk.state is state for step in self.queue for chunk in step.schedule.chunks)

    def _note_requests(self, schedule: Schedule) -> None:
        for admission in schedule.admissions:
            row = self.trace.requests[admission.state.request.index]
            if admission.resumed:
                row["resumes"].append([self.now, admission.cached, admission.num_tokens])
            else:
                row["first_scheduled_ns"] = self.now
                row["cached_tokens"] = admission.cached
        for preemption in schedule.preemptions:
            self.trace.requests[preemption.state.request.index]["num_preemptions"] += 1

    def _await(self, step: Step) -> None:
        self.now = max(self.now, step.done_ns)
        if step.row is not None:
            step.row["t_update_ns"] = self.now
        for state, finished in self.scheduler.update(step.schedule):
            row = self.trace.requests[state.request.index]
            if row["first_token_ns"] is None:
                row["first_token_ns"] = self.now
            row["token_times_ns"].append(self.now)
            if finished:
                row["finish_ns"] = self.now
                row["finish_reason"] = "length"


def reason_to_reject(request: Request, options: SchedulerOptions, num_gpu_blocks: int) -> str | None:
    """Why the real server would refuse the request before it reaches the scheduler, or None."""
    usable = num_gpu_blocks - 1
    needed = -(-request.input_tokens // options.block_size)
    if request.input_tokens >= options.max_model_len:
        return f"prompt of {request.input_tokens} tokens, max_model_len is {options.max_model_len}"
    if needed > usable:
        return f"prompt needs {needed} KV blocks, pool has {usable}"
    return None


def replay(
    config: SchedulerOptions,
    num_gpu_blocks: int,
    cost: PipelineCost,
    requests: Sequence[Request],
    *,
    reject_oversized: bool = True,
    departures: Departures | None = None,
) -> ReferenceTrace:
    """Serve ``requests``, in any order, on one instance of ``len(cost.hops) + 1`` stages."""
    scheduler = ReferenceScheduler(config, num_gpu_blocks, len(cost.hops) + 1, departures)
    accepted: list[Request] = []
    rejected: dict[int, str] = {}
    for request in requests:
        reason = reason_to_reject(request, config, num_gpu_blocks) if reject_oversized else None
        if reason is None:
            accepted.append(request)
        else:
            rejected[request.index] = reason
    engine = ReferenceEngine(scheduler, cost, accepted)
    engine.trace.rejected = rejected
    for request in accepted:
        engine.trace.requests[request.index] = {
            "added_ns": None,
            "first_scheduled_ns": None,
            "first_token_ns": None,
            "finish_ns": None,
            "token_times_ns": [],
            "num_preemptions": 0,
            "cached_tokens": None,
            "resumes": [],
            "finish_reason": None,
        }
    return engine.run()
