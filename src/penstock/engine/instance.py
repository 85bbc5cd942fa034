"""One replica: a scheduler, a pipeline, and vLLM's engine loop between them.

The loop is ``v1/engine/core.py: EngineCore.step_with_batch_queue``. A turn takes in what has arrived, calls
schedule(), puts the step (an empty one too) into the batch queue, and goes on at once while the queue has room
and work remains; otherwise it blocks on the oldest step and takes its tokens. A turn that scheduled nothing is
followed by a short sleep (``EngineCoreProc._process_engine_step``).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from penstock.cost.step_cost import PipelineCost
from penstock.errors import NoProgressError
from penstock.pipeline.pipeline import Pipeline
from penstock.recording.records import TURN_COLUMNS, Cause, TurnChunk, TurnSink
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.scheduler import Scheduler
from penstock.scheduler.step import Step
from penstock.spec.options import EngineOverhead, SchedulerOptions

CHUNK_TURNS = 2048
# Plain numbers: an array takes them faster than members of an enumeration.
_IDLE, _DEPENDENCY, _MEMORY, _ENGINE = map(int, (Cause.IDLE, Cause.DEPENDENCY, Cause.MEMORY, Cause.ENGINE))
DONE_COLUMN = TURN_COLUMNS.index("done_ns")
_UPDATE_COLUMN = TURN_COLUMNS.index("update_ns")


class Tracer(Protocol):
    """Watches single turns, for recordings; a run without one pays nothing for it."""

    def added(self, state: RequestState, now: int) -> None:
        """The engine has taken a request in."""
        ...

    def scheduled(self, step: Step, now: int) -> None:
        """schedule() has returned ``step``."""
        ...

    def updated(self, step: Step, now: int, finished: Sequence[RequestState]) -> None:
        """The engine has taken the tokens of ``step``."""
        ...


class Instance:
    """One replica. ``next_ns`` is when it acts next, None while it has nothing to do.

    Events before a limit are processed by :meth:`run_until`; between calls the instance is in the state that
    an observer at that time would see. ``on_finish`` is called with each finished request and the time.
    ``outstanding_tokens`` counts input and output tokens of all requests sent here and not finished;
    ``watchdog_turns`` is how many turns in a row may be empty while requests wait and nothing is in flight.
    """

    contended = False
    stretches = False

    def __init__(
        self,
        index: int,
        scheduler: Scheduler,
        cost: PipelineCost,
        pipeline: Pipeline,
        *,
        overhead: EngineOverhead | None = None,
        sinks: Sequence[TurnSink] = (),
        on_finish: Callable[[Instance, RequestState, int], None] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.index = index
        self.scheduler = scheduler
        self.pipeline = pipeline
        self.options: SchedulerOptions = scheduler.options
        self.next_ns: int | None = None
        self.inbox: deque[RequestState] = deque()
        self.stops_on_finish = False
        self.iterations = 0
        self.empty_schedules = 0
        self.idle_sleeps = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.turns = 0
        self.outstanding_tokens = 0
        self.now_ns = 0
        self.watchdog_turns = 20
        self._cost = cost
        self._overhead = overhead or EngineOverhead()
        self._return_ns = cost.token_return_ns
        self._back_ns = self._overhead.ipc_from_last_stage_ns
        self._entry_ns = self._overhead.schedule_ns + self._overhead.ipc_to_first_stage_ns
        self._sinks = sinks
        self._on_finish = on_finish
        self._tracer = tracer
        self._queue: deque[Step] = deque()
        self._blocked_on: Step | None = None
        self._scheduled_nothing = False
        self._steps_in_flight = 0
        self._fruitless_turns = 0
        self._width = len(TURN_COLUMNS) + 3 * pipeline.pp_size
        # Cells of the turns not handed on yet. A list takes them twice as fast as an array would.
        self._trace: list[int] = []
        self._updates: list[int] = []
        self._flushed_turns = 0
        self._flushed_busy_ns = np.zeros(pipeline.pp_size, dtype=np.int64)

    # --- what a router may see ------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests routed here and not admitted, seen by the scheduler or not."""
        return len(self.scheduler.waiting) + len(self.inbox)

    @property
    def max_num_seqs(self) -> int:
        """How many requests may run at once."""
        return self.options.max_num_seqs

    @property
    def queue_length(self) -> int:
        """Steps in the batch queue, empty ones included."""
        return len(self._queue)

    # --- events ---------------------------------------------------------------------------------------------

    def deliver(self, state: RequestState) -> None:
        """A request arrives; the engine takes it in at the top of its next turn."""
        self.inbox.append(state)
        self.outstanding_tokens += state.final_tokens
        if self.next_ns is None:
            self.now_ns = max(self.now_ns, state.request.arrival_ns)
            self.next_ns = self.now_ns

    def run_until(self, limit_ns: int) -> None:
        """Process all events before ``limit_ns``, or fewer: with ``stops_on_finish`` the call returns once
        a request has finished, so that what its end releases can arrive before the next turn.

        Raises:
            NoProgressError: unfinished requests, nothing in flight, and turn after turn schedules nothing.
        """
        scheduler = self.scheduler
        queue = self._queue
        depth = self.options.max_in_flight
        overhead = self._overhead
        while True:
            step = self._blocked_on
            if step is not None:
                at = step.done_ns
                if at < self.now_ns:
                    at = self.now_ns
                if at >= limit_ns:
                    self.next_ns = at
                    return
                self._blocked_on = None
                finished = self._take_tokens(step, at)
                self.now_ns = at + overhead.update_ns
                if self._scheduled_nothing:
                    self._sleep()
                    if self._fruitless_turns > self.watchdog_turns:
                        self._give_up()
                if finished and self.stops_on_finish:
                    self.next_ns = self.now_ns
                    return
                if self.stretches:
                    self._between_turns(limit_ns)
            now = self.now_ns
            if now >= limit_ns:
                self.next_ns = now
                return
            first_arrival = self._take_in(now) if self.inbox else now
            if scheduler.running or scheduler.waiting or scheduler.finished_unreported:
                self._scheduled_nothing = not self._turn(now, first_arrival)
                self.now_ns = now + overhead.schedule_ns
                if len(queue) < depth and (not self._scheduled_nothing or scheduler.has_work()):
                    if self._scheduled_nothing:
                        self._sleep()
                    self.turns += 1
                    continue
            elif not queue:
                self.next_ns = None
                return
            else:
                self._scheduled_nothing = False
            self.turns += 1
            self._blocked_on = queue.popleft()

    def _between_turns(self, limit_ns: int) -> None:
        """A chance to take turns in another way; called where ``stretches`` is set."""

    def _take_in(self, now: int) -> int:
        """Drain the input queue; returns the earliest arrival among what was drained."""
        inbox = self.inbox
        first = now
        while inbox and inbox[0].request.arrival_ns <= now:
            state = inbox.popleft()
            first = min(first, state.request.arrival_ns)
            self.scheduler.add(state)
            if self._tracer is not None:
                self._tracer.added(state, now)
        return first

    def _turn(self, now: int, first_arrival: int) -> bool:
        """Schedule a step and send it off; False if it is empty."""
        scheduler = self.scheduler
        step = scheduler.schedule(now)
        tokens = step.tokens
        pipeline = self.pipeline
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        if scheduler.out_of_capacity:
            cause = _MEMORY
        elif scheduler.ready is not None or scheduler.partials or (waiting and scheduler.out_of_budget):
            cause = _ENGINE
        else:
            cause = _DEPENDENCY if running or waiting else _IDLE
        prefill_tokens = step.prefill_tokens
        if tokens:
            compute = self._cost.stage.stage_ns(
                prefill_tokens,
                step.prefill_context,
                step.decodes,
                step.decode_context,
                step.min_context,
                step.max_context,
                step.sampled,
            )
            entry = now + self._entry_ns
            if step.not_before_ns > entry:
                entry = step.not_before_ns
            if self.contended:
                times = self._launch(step, entry, compute)
            else:
                step.end_ns = end = pipeline.submit(entry, tokens, compute)
                step.done_ns = end + self._return_ns[step.sampled] + self._back_ns
                times = pipeline.times
            self.iterations += 1
            self.prompt_tokens += prefill_tokens
            self.generated_tokens += step.sampled
            self._steps_in_flight += 1
            self._fruitless_turns = 0
        else:
            # Visits no stage, and its result follows that of the steps before it.
            step.done_ns = max(now, pipeline.stage_free_ns[-1])
            times = [now] * (3 * pipeline.pp_size)
            self.empty_schedules += 1
            if not self._steps_in_flight and (running or waiting):
                self._fruitless_turns += 1
        self._trace += (
            now,
            first_arrival,
            cause,
            tokens,
            step.sampled,
            step.decodes,
            step.prefills,
            prefill_tokens,
            step.prefill_context + step.decode_context,
            scheduler.kv.free,
            running,
            waiting,
            len(self._queue),
            step.done_ns,
            0,
            *times,
        )
        self._queue.append(step)
        if self._tracer is not None:
            self._tracer.scheduled(step, now)
        return tokens > 0

    def _launch(self, step: Step, entry_ns: int, compute_ns: Sequence[int]) -> list[int]:
        """Send a step off whose way is not known at once; returns what is known of its stages' times. Called
        where ``contended`` is set."""
        raise NotImplementedError

    def _take_tokens(self, step: Step, at: int) -> bool:
        """The oldest step is back; returns whether a request finished with it."""
        finished = self.scheduler.update(step, at)
        if step.tokens:
            self._steps_in_flight -= 1
        self._updates.append(at)
        if len(self._updates) >= CHUNK_TURNS:
            self.flush()
        if self._tracer is not None:
            self._tracer.updated(step, at, finished)
        if finished and self._on_finish is not None:
            for state in finished:
                self.outstanding_tokens -= state.final_tokens
                self._on_finish(self, state, at)
        return bool(finished)

    def _sleep(self) -> None:
        if self.scheduler.has_work():
            self.now_ns += self.options.engine_idle_sleep_ns
            self.idle_sleeps += 1

    def _give_up(self) -> None:
        scheduler = self.scheduler
        head = scheduler.waiting[0] if scheduler.waiting else next(iter(scheduler.running))
        raise NoProgressError(
            f"instance {self.index} makes no progress at {self.now_ns} ns: {self.num_running} requests "
            f"running, {self.num_waiting} waiting, none in flight, {scheduler.kv.free} of "
            f"{scheduler.kv.usable} KV blocks free; first in line is request {head.request.index} with "
            f"{head.num_tokens} tokens ({scheduler.kv.blocks_for(head.num_tokens)} blocks)"
        )

    # --- records --------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand all completed turns to the sinks."""
        rows = len(self._updates)
        if not rows:
            return
        cells = rows * self._width
        packed = struct.pack(f"{cells}q", *self._trace[:cells])
        values = np.frombuffer(bytearray(packed), dtype=np.int64).reshape(rows, self._width)
        values[:, _UPDATE_COLUMN] = self._updates
        del self._trace[:cells]
        self._updates.clear()
        chunk = TurnChunk(self.index, self.pipeline.pp_size, self._flushed_turns, values)
        self._flushed_turns += rows
        for stage in range(self.pipeline.pp_size):
            self._flushed_busy_ns[stage] += np.sum(chunk.stage(stage, "end") - chunk.stage(stage, "start"))
        for sink in self._sinks:
            sink.accept(chunk)

    def last_stage_times(self) -> list[list[int]]:
        """``[start, end]`` of the latest step on each stage."""
        times = self.pipeline.times
        return [times[place + 1 : place + 3] for place in range(0, len(times), 3)]

    def busy_ns(self) -> tuple[int, ...]:
        """Compute time of each stage over all flushed turns."""
        return tuple(int(busy) for busy in self._flushed_busy_ns)
