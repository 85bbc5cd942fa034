"""vLLM's engine loop (``engine/core.py: EngineCoreProc``) in virtual time, as a process that waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.cost.step_cost import PipelineCost
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.workload.request import Request

from .pipeline import ReferencePipeline, Transit
from .scheduler import Departures, ReferenceScheduler, RequestState, Schedule
from .trace import ReferenceTrace
from .world import Phase, World

IDLE_TURNS_OF_A_DEADLOCK = 21


@dataclass(slots=True, eq=False)
class Step:
    """A step in the batch queue. ``turn`` and ``row`` are its lines of the trace; ``row`` is None where it scheduled
    and preempted nothing. ``transit`` is its way through the stages or, of an empty step, that of the latest step
    before it, whose result its own follows."""

    schedule: Schedule
    scheduled_ns: int
    turn: dict[str, Any]
    row: dict[str, Any] | None = None
    transit: Transit | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Wait:
    """What the engine waits for: a time, a step's result, an arrival, or the first of several."""

    time: int | None = None
    step: Step | None = None
    arrival: bool = False


def no_one(request: Request, now: int) -> None:
    """Where nobody asks who has finished."""


class ReferenceEngine:
    """One engine core: the loop, its clock and the trace it writes. ``on_finish`` is told of each request."""

    def __init__(
        self,
        world: World,
        scheduler: ReferenceScheduler,
        pipeline: ReferencePipeline,
        overhead: EngineOverhead | None = None,
        on_finish: Callable[[Request, int], None] = no_one,
    ) -> None:
        self.world = world
        self.scheduler = scheduler
        self.options = scheduler.options
        self.pipeline = pipeline
        self.overhead = overhead or EngineOverhead()
        self.now = 0
        self.queue: deque[Step] = deque()
        self.inbox: deque[Request] = deque()
        self.trace = ReferenceTrace()
        self._on_finish = on_finish
        self._idle_turns = 0
        self._latest: Transit | None = None
        self._latest_sampling: dict[int, Transit] = {}
        self._process = self._run()
        self._waits_for = next(self._process)

    # --- waiting ----------------------------------------------------------------------------------------------

    def deliver(self, request: Request) -> None:
        """A request arrives, now; the engine takes it in at the top of its next turn."""
        self.trace.add_request(request.index)
        self.inbox.append(request)
        if self._waits_for.arrival:
            self._resume_at(self.world.now)

    def _resume_at(self, time: int) -> None:
        waits_for = self._waits_for
        rank = (self.pipeline.rank,)
        self.world.at(max(time, self.world.now), Phase.ENGINE, rank, lambda: self._resume(waits_for))

    def _resume(self, waited_for: Wait) -> None:
        if waited_for is not self._waits_for:
            return  # something else came first
        self.now = max(self.now, self.world.now)
        self._waits_for = next(self._process)
        if self._waits_for.time is not None:
            self._resume_at(self._waits_for.time)
        self._await_result()

    def _await_result(self) -> None:
        step = self._waits_for.step
        if step is not None:
            done = self._done_ns(step)
            if done is not None:
                self._resume_at(max(self.now, done))

    def _done_ns(self, step: Step) -> int | None:
        """When the engine can have the result of a step, None while nobody knows."""
        transit = step.transit
        if transit is None:
            return step.scheduled_ns
        if transit.end_ns is None:
            return None
        if not step.schedule.chunks:
            return max(step.scheduled_ns, transit.end_ns)
        back = self.pipeline.cost.token_return_ns[step.schedule.sampled]
        return transit.end_ns + back + self.overhead.ipc_from_last_stage_ns

    # --- the loop ---------------------------------------------------------------------------------------------

    def _run(self) -> Generator[Wait]:
        while True:
            if not self.scheduler.has_requests() and not self.queue and not self.inbox:
                yield Wait(arrival=True)
            yield Wait(time=self.now)  # what arrives at this time comes first
            self._take_arrivals()
            yield from self._turn()

    def _take_arrivals(self) -> None:
        while self.inbox:
            request = self.inbox.popleft()
            self.scheduler.add(request)
            self.trace.requests[request.index]["added_ns"] = self.now

    def _turn(self) -> Generator[Wait]:
        """vLLM's ``_process_engine_step``: a step, then a sleep if it ran nothing and requests remain."""
        self.trace.num_engine_turns += 1
        if self.options.max_in_flight == 1:
            executed = yield from self._step()
        else:
            executed = yield from self._step_with_batch_queue()
        if executed or not self.scheduler.has_requests():
            self._idle_turns = 0
            return
        self.trace.num_idle_sleeps += 1
        self.now += self.options.engine_idle_sleep_ns
        yield from self._watch_for_deadlock()

    def _watch_for_deadlock(self) -> Generator[Wait]:
        """After so many idle turns nothing but an arrival can help: the real engine spins until there is one."""
        if any(step.schedule.chunks for step in self.queue):
            self._idle_turns = 0
            return
        self._idle_turns += 1
        if self._idle_turns >= IDLE_TURNS_OF_A_DEADLOCK:
            self.trace.deadlock = True
            yield Wait(arrival=True)
            self.trace.deadlock = False
            self._idle_turns = 0

    def _step(self) -> Generator[Wait, None, bool]:
        if not self.scheduler.has_requests():
            return False
        step = self._submit()
        yield Wait(step=step)
        self._take_result(step)
        return bool(step.schedule.chunks)

    def _step_with_batch_queue(self) -> Generator[Wait, None, bool]:
        """Fill the queue first, with empty steps too; block on the oldest only when it is full."""
        departures = self.scheduler.departures
        depth = self.options.max_in_flight
        executed = False
        if self.scheduler.has_requests():
            step = self._submit()
            executed = bool(step.schedule.chunks)
            if executed or departures.empty_steps_take_slots:
                self.queue.append(step)
                if len(self.queue) < depth and (executed or self.scheduler.has_requests()):
                    return executed
        if self.queue:
            oldest = self.queue[0]
            yield Wait(step=oldest, arrival=not departures.blocks_on_oldest_step and len(self.queue) < depth)
            done = self._done_ns(oldest)
            if done is not None and done <= self.now:
                self.queue.popleft()
                self._take_result(oldest)
        return executed

    # --- a step -----------------------------------------------------------------------------------------------

    def _submit(self) -> Step:
        free_before = len(self.scheduler.kv.free)
        schedule = self.scheduler.schedule()
        step = Step(schedule, self.now, self._turn_row(schedule))
        if schedule.chunks or schedule.preemptions:
            step.row = self._row(schedule, free_before)
        self._note_requests(schedule)
        if schedule.chunks:
            self._launch(step)
            self.trace.empty_before = 0
        else:
            step.transit = self._latest
            self.trace.num_empty_schedules += 1
            self.trace.empty_before = 1 if schedule.preemptions else self.trace.empty_before + 1
        self.now += self.overhead.schedule_ns
        return step

    def _launch(self, step: Step) -> None:
        """Under async scheduling a step may need tokens that earlier steps are still computing."""
        requests = [chunk.state.request.index for chunk in step.schedule.chunks]
        after: list[Transit] = []
        if self.options.async_scheduling:
            after = [self._latest_sampling[index] for index in requests if index in self._latest_sampling]
        entry = self.now + self.overhead.schedule_ns + self.overhead.ipc_to_first_stage_ns

        def left(transit: Transit) -> None:
            step.transit = transit
            step.turn.update(
                done_ns=self._done_ns(step), arrive=transit.arrive, start=transit.start, end=transit.end
            )
            if step.row is not None:
                step.row.update(t_done_ns=step.turn["done_ns"], stage_ns=transit.stage_ns)
            awaited = self._waits_for.step
            if awaited is not None and awaited.transit is transit:
                self._await_result()

        step.transit = self._latest = self.pipeline.launch(step.schedule, entry, after, left)
        for chunk in step.schedule.chunks:
            if chunk.samples:
                self._latest_sampling[chunk.state.request.index] = step.transit

    def _take_result(self, step: Step) -> None:
        step.turn["update_ns"] = self.now
        self.trace.turns.append(step.turn)
        if step.row is not None:
            step.row["t_done_ns"] = self._done_ns(step)
            step.row["t_update_ns"] = self.now if step.schedule.chunks else None
        for state, finished in self.scheduler.update(step.schedule):
            self.trace.take_token(state.request.index, self.now, finished=finished)
            if finished:
                self._on_finish(state.request, self.now)
        self.now += self.overhead.update_ns

    # --- the trace --------------------------------------------------------------------------------------------

    def _turn_row(self, schedule: Schedule) -> dict[str, Any]:
        prefills = [chunk for chunk in schedule.chunks if chunk.new > 1]
        return {
            "schedule_ns": self.now,
            "tokens": schedule.tokens,
            "sampled": schedule.sampled,
            "decodes": len(schedule.chunks) - len(prefills),
            "prefills": len(prefills),
            "prefill_tokens": sum(chunk.new for chunk in prefills),
            "context_tokens": sum(chunk.computed for chunk in schedule.chunks),
            "free_blocks": len(self.scheduler.kv.free),
            "running": len(self.scheduler.running),
            "waiting": len(self.scheduler.waiting),
            "in_flight": len(self.queue),
        }

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
            "empty_schedules_before": self.trace.empty_before,
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
    until_ns: int | None = None,
) -> ReferenceTrace:
    """Serve ``requests``, in any order, on one instance of ``len(cost.hops) + 1`` stages, to the end or up to
    ``until_ns``."""
    world = World()
    scheduler = ReferenceScheduler(config, num_gpu_blocks, len(cost.hops) + 1, departures)
    engine = ReferenceEngine(world, scheduler, ReferencePipeline(world, cost, 0, {}, blocking_sends=False))
    accepted: list[Request] = []
    for request in requests:
        reason = reason_to_reject(request, config, num_gpu_blocks) if reject_oversized else None
        if reason is None:
            accepted.append(request)
        else:
            engine.trace.rejected[request.index] = reason
    for request in sorted(accepted, key=lambda request: request.arrival_ns):
        world.at(request.arrival_ns, Phase.ARRIVAL, (), lambda request=request: engine.deliver(request))
    world.run(until_ns)
    trace = engine.trace
    for request in accepted:
        if request.index not in trace.requests:
            trace.add_request(request.index)
    trace.end_ns = engine.now
    trace.free_blocks_end = len(scheduler.kv.free)
    return trace
