"""vLLM's engine loop as a process among others, with workers that do more than compute."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from penstock.cost.step_cost import PipelineCost
from penstock.workload.request import Request

from .connected import ConnectedScheduler, WorkerReport, aggregate
from .pipeline import stage_ns
from .scheduler import RequestState, Schedule
from .trace import ReferenceTrace

DELIVERY, WORKER, ENGINE = range(3)
"""What comes first at one instant."""


class Agenda:
    """Everything that is going to happen, in order of time, then phase, then the place of who it concerns."""

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, tuple[int, ...], int, Callable[[], None]]] = []
        self._order = count()

    def at(self, at_ns: int, phase: int, place: tuple[int, ...], happen: Callable[[], None]) -> None:
        """``happen`` at ``at_ns``."""
        heapq.heappush(self._heap, (at_ns, phase, place, next(self._order), happen))

    def run(self) -> None:
        """Until nothing is left."""
        while self._heap:
            self.now, _, _, _, happen = heapq.heappop(self._heap)
            happen()


class StageClocks:
    """When each stage is free next. A step's whole way is known when it is submitted: links are latencies."""

    def __init__(self, cost: PipelineCost) -> None:
        self.cost = cost
        self.stages = len(cost.hops) + 1
        self.stage_free = [0] * self.stages
        self.link_free = [0] * len(cost.hops)

    def submit(self, now: int, schedule: Schedule, previous_tokens_ns: int) -> tuple[list[list[int]], int]:
        """Start and end of every stage, and when the sampled tokens are back. ``previous_tokens_ns``: stage 0
        cannot start before, as it needs the tokens sampled then."""
        compute = stage_ns(self.cost, schedule)
        tokens = schedule.tokens
        arrival = max(now, previous_tokens_ns)
        times: list[list[int]] = []
        for stage in range(self.stages):
            start = self.enter(stage, max(self.stage_free[stage], arrival), schedule)
            end = start + compute[stage]
            self.stage_free[stage] = end
            self.leave(stage, start, schedule)
            times.append([start, end])
            if stage < self.stages - 1:
                hop = self.cost.hops[stage]
                sent = max(self.link_free[stage], end)
                self.link_free[stage] = sent + hop.occupancy_ns[tokens]
                arrival = sent + hop.arrival_ns[tokens]
        return times, times[-1][1] + self.cost.token_return_ns[schedule.sampled]

    def enter(self, stage: int, arrival: int, schedule: Schedule) -> int:
        """A step's worker is free and has the step: when its forward starts."""
        del stage, schedule
        return arrival

    def leave(self, stage: int, start: int, schedule: Schedule) -> None:
        """A step's forward was launched at ``start``; ``stage_free`` is its end."""

    def pass_through(self, now: int, schedule: Schedule) -> int:
        """A step without tokens visits no stage: when its result is there."""
        del schedule
        return max(now, self.stage_free[-1])


@dataclass(frozen=True, slots=True)
class Step:
    """A step in the batch queue; ``row`` is its iteration, None if it scheduled and preempted nothing."""

    schedule: Schedule
    done_ns: int
    row: dict[str, Any] | None


class Worker(Protocol):
    """One stage, as far as its connector goes."""

    def moment(self, now: int, metadata: Any) -> WorkerReport: ...


@dataclass(slots=True)
class LiveStep:
    """A step in the batch queue, and what its stages have seen so far."""

    step: Step
    reports: list[WorkerReport] = field(default_factory=list)


class Replica:
    """An engine with a connector. ``idle``: it waits for work; ``stuck``: it has work but nothing it can do, and
    does not sleep. Either ends with :meth:`wake`."""

    def __init__(
        self,
        place: int,
        name: str,
        scheduler: ConnectedScheduler,
        cost: PipelineCost,
        workers: Sequence[Worker],
        agenda: Agenda,
        *,
        looks_at_end: bool = False,
    ) -> None:
        self.place, self.name = place, name
        self.scheduler = scheduler
        self.options = scheduler.options
        self.pipeline = StageClocks(cost)
        self.now = 0
        self.trace = ReferenceTrace()
        self._token_ready_ns: dict[int, int] = {}
        self.workers = workers
        self.agenda = agenda
        self.looks_at_end = looks_at_end
        self.steps: deque[LiveStep] = deque()
        self.inbox: list[tuple[str, Any]] = []
        self.kv_events: list[dict[str, Any]] = []
        self.on_finish: Callable[[RequestState], None] = lambda state: None
        self.on_abort: Callable[[int], None] = lambda index: None
        self._reported: dict[tuple[str, int], int] = {}
        self._asleep = False
        self._life = self._loop()
        self._resume()

    def note(self, kind: str, index: int, **more: object) -> None:
        """Something happened to a request's blocks."""
        self.kv_events.append(
            {
                "t_ns": self.agenda.now,
                "kind": kind,
                "req_id": index,
                **more,
                "free_blocks": len(self.scheduler.kv.free),
                "iter": len(self.trace.iterations),
            }
        )

    def deliver(self, kind: str, what: Any) -> None:
        """A request (``add``) or the leave of its client (``abort``) reaches the engine's input queue."""
        self.inbox.append((kind, what))
        self.wake()

    def wake(self) -> None:
        """Something concerns this engine: it looks again if it waits without a time."""
        if self._asleep:
            self._asleep = False
            self.agenda.at(self.agenda.now, ENGINE, (self.place,), self._resume)

    def _resume(self) -> None:
        self.now = self.agenda.now
        until = next(self._life)
        if until is None:
            self._asleep = True
        else:
            self.agenda.at(until, ENGINE, (self.place,), self._resume)

    def _loop(self) -> Generator[int | None, None, None]:
        """vLLM's ``run_busy_loop``: yields the time until which it waits, None if only others can end it."""
        idle_turns = 0
        while True:
            self._take_inputs()
            while not self.scheduler.has_requests() and not self.steps:
                yield None
                self._take_inputs()
            self.trace.num_engine_turns += 1
            executed = yield from self._turn_of_queue()
            if executed or not self.scheduler.has_requests():
                idle_turns = 0
                continue
            self.trace.num_idle_sleeps += 1
            if self.options.engine_idle_sleep_ns:
                yield self.now + self.options.engine_idle_sleep_ns
            elif any(live.step.schedule.chunks for live in self.steps):
                idle_turns = 0
            elif (idle_turns := idle_turns + 1) > 2 * self.options.max_in_flight + 2:
                yield None
                idle_turns = 0

    def _turn_of_queue(self) -> Generator[int, None, bool]:
        """``step`` and ``step_with_batch_queue`` in one: a queue of depth 1 is filled, and then emptied."""
        executed = False
        if self.scheduler.has_requests():
            live = self._launch()
            executed = bool(live.step.schedule.chunks)
            self.steps.append(live)
            if len(self.steps) < self.options.max_in_flight and (executed or self.scheduler.has_requests()):
                return executed
        if self.steps:
            live = self.steps.popleft()
            yield max(self.now, live.step.done_ns)
            self._finish_step(live)
        return executed

    def _launch(self) -> LiveStep:
        step = self._submit()
        live = LiveStep(step)
        for stage, worker in enumerate(self.workers):
            moment = max(self.now, self.pipeline.stage_free[stage])
            if step.schedule.chunks:
                assert step.row is not None
                moment = step.row["stage_ns"][stage][self.looks_at_end]
            self.agenda.at(moment, WORKER, (self.place, stage), self._moment(worker, live))
        return live

    def _submit(self) -> Step:
        free_before = len(self.scheduler.kv.free)
        schedule = self.scheduler.schedule()
        times: list[list[int]] = []
        if schedule.chunks:
            times, done = self._run(schedule)
        else:
            self.trace.num_empty_schedules += 1
            done = self.pipeline.pass_through(self.now, schedule)
        row = None
        if schedule.chunks or schedule.preemptions:
            row = self._row(schedule, free_before)
            row["t_done_ns"] = done
            if times:
                row["stage_ns"] = times
            self.trace.empty_before = 0
        if not schedule.chunks:
            self.trace.empty_before += 1
        return Step(schedule, done, row)

    def _run(self, schedule: Schedule) -> tuple[list[list[int]], int]:
        waits_for_tokens = self.options.async_scheduling and self.pipeline.stages > 1
        previous = max(self._token_ready_ns.get(chunk.state.request.index, 0) for chunk in schedule.chunks)
        times, done = self.pipeline.submit(self.now, schedule, previous if waits_for_tokens else 0)
        for chunk in schedule.chunks:
            if chunk.samples:
                self._token_ready_ns[chunk.state.request.index] = times[-1][1]
        return times, done

    def _row(self, schedule: Schedule, free_before: int) -> dict[str, Any]:
        for admission in schedule.admissions:
            request = self.trace.requests[admission.state.request.index]
            if admission.resumed:
                request["resumes"].append([self.now, admission.cached, admission.num_tokens])
            else:
                request["first_scheduled_ns"] = self.now
                request["cached_tokens"] = admission.cached
        for preemption in schedule.preemptions:
            self.trace.requests[preemption.state.request.index]["num_preemptions"] += 1
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
            "free_blocks_after": len(self.scheduler.kv.free),
            "num_running": len(self.scheduler.running),
            "num_waiting": self.scheduler.num_waiting,
            "queue_len_before": len(self.steps),
            "empty_schedules_before": self.trace.empty_before,
        }
        self.trace.iterations.append(row)
        return row

    def _moment(self, worker: Worker, live: LiveStep) -> Callable[[], None]:
        def happen() -> None:
            live.reports.append(worker.moment(self.agenda.now, live.step.schedule.metadata))

        return happen

    def _finish_step(self, live: LiveStep) -> None:
        assert len(live.reports) == len(self.workers)
        self._take_aborts()
        if live.step.row is not None:
            live.step.row["t_update_ns"] = self.now
        report = aggregate(live.reports, self._reported, len(self.workers))
        delivered, ended = self.scheduler.update_with(live.step.schedule, report)
        for state, finished in delivered:
            self.trace.take_token(state.request.index, self.now, finished=finished)
            if finished:
                self.on_finish(state)
        for state in ended:
            self.trace.requests[state.request.index].update(finish_ns=self.now, finish_reason="error")

    def _take_inputs(self) -> None:
        inputs, self.inbox = self.inbox, []
        for kind, what in inputs:
            if kind == "add":
                self._add(what)
            else:
                self._abort(what)

    def _take_aborts(self) -> None:
        """vLLM's ``_process_aborts_queue``: of requests that were taken in already."""
        for kind, what in list(self.inbox):
            if kind == "abort" and what in self.trace.requests:
                self._abort(what)
                self.inbox.remove((kind, what))

    def _add(self, request: Request) -> None:
        self.trace.add_request(request.index)
        self.trace.requests[request.index]["added_ns"] = self.now
        self.scheduler.add(request)

    def _abort(self, index: int) -> None:
        state = self.scheduler.states.get(index)
        if state is not None and state.status not in ("finished", "ended"):
            self.scheduler.end(state)
            self.on_abort(index)
