"""vLLM's ``DPEngineCoreProc`` (``engine/core.py``): one rank of a group that runs its forwards in lock-step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.spec.data_parallel import DataParallelOptions
from penstock.workload.request import Request

from .lockstep import Group
from .rank_trace import RankTrace
from .scheduler import ReferenceScheduler, Schedule
from .virtual_time import Signal, VirtualTime


@dataclass(slots=True, eq=False)
class Step:
    """A step in a rank's batch queue; ``row`` is its iteration, None if it wrote none."""

    schedule: Schedule
    done: Signal
    row: dict[str, Any] | None


@dataclass(slots=True)
class Mail:
    """How a rank talks to the rest: ``coordinator(message...)`` and ``finished(requests)``."""

    coordinator: Callable[..., None]
    finished: Callable[[Sequence[int]], None]


class Rank:
    """One engine of the group: its scheduler, its loop and the trace it writes.

    ``input_queue`` holds ("add", request, wave) and ("start", wave, exclude). The loop is a generator that yields
    the signals it blocks on.
    """

    def __init__(
        self,
        rank: int,
        time: VirtualTime,
        group: Group,
        options: DataParallelOptions,
        scheduler: ReferenceScheduler,
        mail: Mail,
    ) -> None:
        self.rank = rank
        self.time = time
        self.group = group
        self.dp = options
        self.scheduler = scheduler
        self.options = scheduler.options
        self.mail = mail
        self.trace = RankTrace()
        self.dummies: list[dict[str, Any]] = []
        self.input_queue: deque[tuple[Any, ...]] = deque()
        self.queue: deque[Step] = deque()
        self.engines_running = False
        self.wave = 0
        self.step_counter = 0
        self._last_counts = (0, 0)
        self._forwards = 0
        self._syncs = 0
        self._last_done = Signal(0)
        self._empty_before = 0
        self._input_came = Signal()
        self._loop = self._run()
        self._blocked_on: Signal | None = Signal(0)

    def next_ns(self) -> int | None:
        """When what it blocks on comes true, if that is known."""
        return self._blocked_on.ready_ns if self._blocked_on else None

    def act(self) -> None:
        """Go on until it blocks again."""
        self._blocked_on = next(self._loop)

    @property
    def idle(self) -> bool:
        """Whether it waits for a message, with none there."""
        return self._blocked_on is self._input_came and self._input_came.ready_ns is None

    def receive(self, *message: Any) -> None:
        """A message has reached the input queue."""
        self.input_queue.append(message)
        self._input_came.ready_ns = self.time.now

    def _run(self) -> Generator[Signal]:
        """vLLM's ``run_busy_loop``."""
        while True:
            was_running = self.engines_running
            yield from self._take_input()
            if self.dp.generation != "0.19":
                self._publish_counts()
            executed = yield from self._engine_step()
            self._publish_counts()
            unfinished = self.scheduler.has_unfinished()
            if not executed:
                if not unfinished and not self.engines_running:
                    continue
                yield from self._dummy_batch()
            self.engines_running = yield from self._anyone_unfinished(unfinished=unfinished)
            if not self.engines_running:
                if self.rank == 0:
                    self.mail.coordinator("wave_complete", self.rank, self.wave)
                self.wave += 1
                self.step_counter = 0
            elif not was_running and self.rank == 0 and self.dp.generation != "0.19":
                self.mail.coordinator("start_wave", self.rank, self.wave)

    def _take_input(self) -> Generator[Signal]:
        while not (self.engines_running or self.scheduler.has_requests() or self.queue):
            if not self.input_queue:
                self._input_came = Signal()
                yield from self.time.blocked(self._input_came)
            self._handle(*self.input_queue.popleft())
        while self.input_queue:
            self._handle(*self.input_queue.popleft())

    def _handle(self, kind: str, subject: Any, detail: Any) -> None:
        if kind == "add":
            self._add(subject, detail)
        elif detail != self.rank and subject >= self.wave:
            self.wave = subject
            self.engines_running = True

    def _add(self, request: Request, wave: int) -> None:
        self.scheduler.add(request)
        self.trace.requests[request.index]["added_ns"] = self.time.now
        if wave > self.wave:
            self.wave = wave
        elif wave < self.wave and not self.engines_running:
            self.engines_running = True
            self.mail.coordinator("start_wave", self.rank, self.wave)

    def _publish_counts(self) -> None:
        if self.dp.load_balancing == "external":
            return
        counts = len(self.scheduler.running), len(self.scheduler.waiting)
        if counts != self._last_counts:
            self._last_counts = counts
            running, waiting = counts
            usage = self.scheduler.kv.usage
            self.mail.coordinator("counts", self.rank, waiting, running, usage, self.step_counter, self.wave)

    def _engine_step(self) -> Generator[Signal, None, bool]:
        """A step, then a sleep if it ran nothing and requests remain."""
        step = self._step() if self.options.max_in_flight == 1 else self._step_with_batch_queue()
        executed = yield from step
        if not executed and self.scheduler.has_requests():
            self.trace.num_idle_sleeps += 1
            yield from self.time.blocked(Signal(self.time.now + self.options.engine_idle_sleep_ns))
        return executed

    def _step(self) -> Generator[Signal, None, bool]:
        if not self.scheduler.has_requests():
            return False
        step = self._submit()
        yield from self._await(step)
        return bool(step.schedule.chunks)

    def _step_with_batch_queue(self) -> Generator[Signal, None, bool]:
        executed = False
        if self.scheduler.has_requests():
            step = self._submit()
            executed = bool(step.schedule.chunks)
            self.queue.append(step)
            if len(self.queue) < self.options.max_in_flight and (executed or self.scheduler.has_requests()):
                return executed
        if self.queue:
            yield from self._await(self.queue.popleft())
        return executed

    def _submit(self) -> Step:
        interval = self.dp.prefill_schedule_interval
        throttle = interval > 1 and self.step_counter % interval != 0
        free_before = len(self.scheduler.kv.free)
        schedule = self.scheduler.schedule(throttle_prefills=throttle)
        if not schedule.chunks:
            self.trace.num_empty_schedules += 1
            if not schedule.preemptions:
                self._empty_before += 1
                return Step(schedule, self._last_done, None)
        row = self.trace.write_schedule(
            self.scheduler,
            schedule,
            now=self.time.now,
            free_before=free_before,
            in_flight=[step.schedule for step in self.queue],
            empty_before=self._empty_before,
        )
        row.update(rank=self.rank, step_counter=self.step_counter, wave=self.wave)
        if throttle:
            row["throttled"] = True
        if schedule.chunks:
            self._empty_before = 0
            row["fwd"] = self._forwards
            self._last_done = self._submit_forward(schedule)
        else:
            self._empty_before = 1
        return Step(schedule, self._last_done, row)

    def _submit_forward(self, schedule: Schedule | None) -> Signal:
        done = self.group.submit(self.rank, self._forwards, schedule)
        self._forwards += 1
        return done

    def _await(self, step: Step) -> Generator[Signal]:
        called_ns = self.time.now
        yield from self.time.blocked(step.done)
        if step.row is not None:
            step.row["t_done_ns"] = step.done.ready_ns
            if step.schedule.chunks:
                step.row["t_update_ns"] = self.time.now
            else:
                step.row["t_done_ns"] = max(step.row["t_schedule_ns"], step.done.ready_ns or called_ns)
        delivered = self.scheduler.update(step.schedule)
        self.trace.write_tokens(delivered, self.time.now)
        finished = [state.request.index for state, done in delivered if done]
        if finished:
            self.mail.finished(finished)

    def _dummy_batch(self) -> Generator[Signal]:
        """A forward of one token that belongs to nobody; the loop waits for it."""
        row: dict[str, Any] = {
            "rank": self.rank,
            "fwd": self._forwards,
            "step_counter": self.step_counter,
            "wave": self.wave,
            "t_submit_ns": self.time.now,
        }
        self._last_done = done = self._submit_forward(None)
        yield from self.time.blocked(done)
        row.update(t_done_ns=done.ready_ns, t_return_ns=self.time.now)
        self.dummies.append(row)

    def _anyone_unfinished(self, *, unfinished: bool) -> Generator[Signal, None, bool]:
        self.step_counter += 1
        first = self.step_counter == 1 and self.dp.generation != "0.19"
        if not first and self.step_counter % self.dp.sync_interval != 0:
            return True
        sync = self.group.enter_sync(
            self.rank, self._syncs, unfinished=unfinished, wave=self.wave, step=self.step_counter
        )
        self._syncs += 1
        yield from self.time.blocked(sync.done)
        return any(sync.unfinished)
