"""One replica: vLLM's engine loop between a scheduler and an executor.

The loop is ``v1/engine/core.py: EngineCore.step_with_batch_queue``. A turn takes in what has arrived, calls
schedule(), puts the step (an empty one too) into the batch queue, and goes on at once while the queue has room
and work remains; otherwise it blocks on the oldest step and takes its tokens. A turn that scheduled nothing is
followed by a short sleep (``EngineCoreProc._process_engine_step``).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from penstock.engine.executor import Executor
from penstock.engine.kernel import Agenda
from penstock.errors import NoProgressError
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import UNKNOWN_NS, Step
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.units import NEVER_NS, Int64Array


class Watcher(Protocol):
    """Sees single turns as they happen, live objects and all; a replica without one pays nothing for it."""

    def added(self, state: RequestState, now: int) -> None:
        """The engine has taken a request in."""
        ...

    def scheduled(self, step: Step, now: int) -> None:
        """schedule() has returned ``step``, and it was sent off."""
        ...

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        """The engine has taken the tokens of ``step``."""
        ...


class Accelerator(Protocol):
    """Takes many turns at once where they are foreseeable, and leaves the same records as the turns would."""

    def take_turns(self, replica: Replica, limit_ns: int) -> bool:
        """Called when the result of a step has been taken, before the next schedule(); may move the replica on to
        before ``limit_ns``. Returns whether the replica blocks on its oldest step then
        (:meth:`Replica.block_on_oldest`); otherwise schedule() comes next."""
        ...


class Naps(Protocol):
    """Spares an engine the turns in which it would find the same nothing again and again."""

    def until_ns(self, replica: Replica) -> int | None:
        """Until when the turns of ``replica``, the next one included, schedule nothing and find nothing, unless
        somebody comes; None where the next turn may be another."""
        ...

    def take(self, replica: Replica, before_ns: int) -> None:
        """Take those turns that begin before ``before_ns``; see :meth:`Replica.idle_until`."""
        ...


class Replica:
    """The engine of one instance. ``next_ns`` is when it acts next, None while it has nothing to do or waits for
    what others do.

    Events before a limit are processed by :meth:`run_until`; between calls the replica is in the state that
    an observer at that time would see. ``on_end`` is called with each request that leaves and the time.
    ``stops_on_end``: then the call returns, so that what this releases can arrive before the next turn. With an
    ``agenda`` others may act on what it does: it then also stops where the agenda's limit falls.
    ``outstanding_tokens`` counts input and output tokens of all requests sent here and not finished.
    ``watchdog_turns`` is how many turns in a row may be empty while requests wait and nothing is in flight; with
    ``gives_up`` False the replica then sleeps until somebody comes, as the real engine's spinning looks from
    outside.
    """

    def __init__(
        self,
        index: int,
        scheduler: EngineScheduler,
        executor: Executor,
        options: SchedulerOptions,
        log: TurnLog,
        *,
        overhead: EngineOverhead | None = None,
        agenda: Agenda | None = None,
        accelerator: Accelerator | None = None,
        naps: Naps | None = None,
        on_end: Callable[[Replica, RequestState, int], None] | None = None,
        watcher: Watcher | None = None,
        workers: StepWorkers | None = None,
    ) -> None:
        self.index = index
        self.scheduler = scheduler
        self.executor = executor
        self.options = options
        self.log = log
        self.overhead = overhead or EngineOverhead()
        self.next_ns: int | None = None
        self.now_ns = 0
        self.inbox: deque[RequestState] = deque()
        self.stops_on_end = False
        self.idle_sleeps = 0
        self.turns = 0
        self.outstanding_tokens = 0
        self.watchdog_turns = 20
        self.gives_up = True
        self.is_deadlocked = False
        self.agenda = agenda
        self._accelerator = accelerator
        self._naps = naps
        self._on_end = on_end
        self.watcher = watcher
        self._entry_ns = self.overhead.schedule_ns + self.overhead.ipc_to_first_stage_ns
        self._no_times = [0] * (3 * executor.pp_size)
        self.steps: deque[Step] = deque()
        """In flight, oldest first, empty ones included, but for the one that it blocks on."""
        self._blocked_on: Step | None = None
        self._aborts: list[RequestState] = []
        self._status = scheduler.status()
        self._scheduled_nothing = False
        self._fruitless_turns = 0
        self.workers = workers
        # Turns in a row that found nothing to do; whether it waits for something to concern it; when that will be.
        self._idle_turns = 0
        self._is_dozing = False
        self._is_napping = False
        self._appointments: list[int] = []
        executor.when_arrived(self._arrived)

    # --- what a router may see ------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        return self.scheduler.status().running

    @property
    def num_waiting(self) -> int:
        """Requests routed here and not admitted, seen by the scheduler or not."""
        return self.scheduler.status().waiting + len(self.inbox)

    @property
    def max_num_seqs(self) -> int:
        """How many requests may run at once."""
        return self.options.max_num_seqs

    @property
    def queue_length(self) -> int:
        """Steps in the batch queue, empty ones included."""
        return len(self.steps)

    def in_flight(self) -> Iterator[Step]:
        """The steps whose results were not taken, oldest first, empty ones included."""
        if self._blocked_on is not None:
            yield self._blocked_on
        yield from self.steps

    @property
    def is_idle(self) -> bool:
        """Whether it waits for something to come."""
        return self._is_dozing or (self.next_ns is None and self._blocked_on is None)

    @property
    def has_news(self) -> bool:
        """Whether the engine has messages that it has not read: requests, or that a client has left."""
        return bool(self.inbox) or bool(self._aborts)

    @property
    def usable_blocks(self) -> int:
        """KV blocks that requests can have."""
        return self._status.usable_blocks

    # --- what is asked of it behind the run -----------------------------------------------------------------

    @property
    def open_since_ns(self) -> int:
        """When the oldest turn was scheduled that the sinks have not got; NEVER_NS if there is none."""
        return self.log.open_since_ns

    @property
    def last_stage_ns(self) -> int:
        """When the last of its stages is free."""
        return max(self.executor.stage_free_ns)

    def flush(self) -> None:
        """Hand all complete turns to the sinks."""
        self.log.flush()

    def token_gaps(self) -> Int64Array:
        """Pairs (gap_ns, how many), shape (pairs, 2), a copy: all inter-token latencies so far."""
        return np.frombuffer(self.scheduler.token_gaps, dtype=np.int64).reshape(-1, 2).copy()

    def forget_gaps(self) -> None:
        """Drop them."""
        del self.scheduler.token_gaps[:]

    # --- events ---------------------------------------------------------------------------------------------

    def deliver(self, state: RequestState, by: int = -1) -> None:
        """A request arrives; the engine takes it in at the top of its next turn. ``by``: see :meth:`expect`."""
        self.inbox.append(state)
        self.outstanding_tokens += state.final_tokens
        if self.is_idle:
            self._rouse(state.arrived_ns, by)

    def abort(self, state: RequestState, now: int) -> None:
        """The client of a request has left: the engine lets go of it at the top of its next turn or, while it is
        blocked on a step, right before it takes that step's tokens (vLLM ``EngineCore.abort_requests``)."""
        self._aborts.append(state)
        if self.is_idle:
            self._rouse(now)

    def find(self, request_index: int) -> RequestState | None:
        """The request of that number, if it is here and has not ended."""
        for state in (*self.inbox, *self.scheduler.states()):
            if state.request.index == request_index:
                return state
        return None

    def cancel(self, request_index: int, now: int) -> bool:
        """The client of a request has left; False if the request is not here."""
        state = self.find(request_index)
        if state is None:
            return False
        self.abort(state, now)
        return True

    def expect(self, at_ns: int, by: int = -1) -> None:
        """Something happens at ``at_ns`` that the engine may be waiting for; where another engine does it at that very
        instant, ``by`` is its number. It matters to one that does not sleep between turns that schedule nothing, which
        looks again exactly then, and to one that naps."""
        if self._is_napping:
            self._rouse(at_ns, by)
            if self.agenda is not None and self.next_ns is not None:
                self.agenda.wake(self, self.next_ns)
            return
        if self.workers is None or self.options.engine_idle_sleep_ns:
            return
        heapq.heappush(self._appointments, at_ns)
        if self._is_dozing and (self.next_ns is None or at_ns < self.next_ns):
            self.next_ns = max(at_ns, self.now_ns)
            if self.agenda is not None:
                self.agenda.wake(self, self.next_ns)

    def _rouse(self, now: int, by: int = -1) -> None:
        if self._is_napping:
            # The turns before that are taken when the time has come: somebody else may come earlier still. Of engines
            # that act at one instant the lower numbers act first.
            at_ns = max(self.now_ns, now if by < self.index else now + 1)
            if self.next_ns is None or at_ns < self.next_ns:
                self.next_ns = at_ns
            return
        self.now_ns = max(self.now_ns, now)
        self.next_ns = self.now_ns

    def _wake_up(self, now: int) -> None:
        self._is_dozing = False
        if self._is_napping:
            self.catch_up(now)
            self._is_napping = False
            self.next_ns = self.now_ns
            return
        self._rouse(now)

    def catch_up(self, now: int) -> None:
        """Take the turns before ``now`` that were left out, if it naps."""
        if self._is_napping and self._naps is not None:
            self._naps.take(self, now)

    def _nap(self) -> bool:
        """Whether nothing is to be found until somebody comes, or until ``next_ns``."""
        if self._naps is None or self.watcher is not None or self.has_news:
            return False
        until_ns = self._naps.until_ns(self)
        if until_ns is None:
            return False
        self.next_ns = until_ns if until_ns < NEVER_NS else None
        self._is_dozing = self._is_napping = True
        return True

    def _doze(self) -> bool:
        """Whether turn after turn found nothing to do, so that only something from outside will change that."""
        if self.workers is None or self.options.engine_idle_sleep_ns or self._has_tokens_in_flight():
            return False
        self._idle_turns += 1
        if self._idle_turns <= 2 * self.options.max_in_flight + 2:
            return False
        while self._appointments and self._appointments[0] <= self.now_ns:
            heapq.heappop(self._appointments)
        coming = [self._appointments[0]] if self._appointments else []
        coming += [self.inbox[0].arrived_ns] if self.inbox else []
        self.next_ns = max(min(coming), self.now_ns) if coming else None
        self._idle_turns = 0
        self._is_dozing = True
        return True

    def run_until(self, limit_ns: int) -> None:
        """Process all events before ``limit_ns``, or fewer: see ``stops_on_end`` and ``agenda``.

        Raises:
            NoProgressError: unfinished requests, nothing in flight, and turn after turn schedules nothing.
        """
        scheduler = self.scheduler
        queue = self.steps
        depth = self.options.max_in_flight
        overhead = self.overhead
        agenda = self.agenda
        if self._is_dozing:
            if self.next_ns is None or self.next_ns >= limit_ns:
                return
            self._wake_up(self.next_ns)
        while True:
            if agenda is not None and agenda.limit_ns < limit_ns:
                limit_ns = agenda.limit_ns
            step = self._blocked_on
            if step is not None:
                at = step.done_ns
                if at == UNKNOWN_NS:
                    self.next_ns = None
                    return
                if at < self.now_ns:
                    at = self.now_ns
                if at >= limit_ns:
                    self.next_ns = at
                    return
                self._blocked_on = None
                ended = self._take_tokens(step, at)
                self.now_ns = at + overhead.update_ns
                if self._scheduled_nothing:
                    self._sleep()
                    if self._fruitless_turns > self.watchdog_turns:
                        self._give_up()
                        return
                    if self._doze() or self._nap():
                        if self.next_ns is None or self.next_ns >= limit_ns:
                            return
                        self._wake_up(self.next_ns)
                if ended and self.stops_on_end:
                    self.next_ns = self.now_ns
                    return
                if agenda is not None and agenda.limit_ns < limit_ns:
                    limit_ns = agenda.limit_ns
                accelerator = self._accelerator
                if (
                    accelerator is not None
                    and self.watcher is None
                    and accelerator.take_turns(self, limit_ns)
                ):
                    continue
            now = self.now_ns
            if now >= limit_ns:
                self.next_ns = now
                return
            first_arrival = self._take_in(now) if self.inbox else now
            if self._aborts:
                self._let_go(now)
            if scheduler.has_work():
                self._scheduled_nothing = not self._turn(now, first_arrival)
                self.now_ns = now + overhead.schedule_ns
                if len(queue) < depth and (not self._scheduled_nothing or scheduler.has_work()):
                    if self._scheduled_nothing:
                        self._sleep()
                    self.turns += 1
                    continue
            elif not queue:
                if self.inbox:  # on its way
                    self.now_ns = self.inbox[0].arrived_ns
                    continue
                self.next_ns = None
                return
            else:
                self._scheduled_nothing = False
            self.turns += 1
            self._blocked_on = queue.popleft()

    def skip_turns(self, rows: Int64Array, now_ns: int) -> None:
        """Turns that an :class:`Accelerator` has taken, shape (turns, columns of the turn log)."""
        self.log.extend(rows)
        self.now_ns = now_ns
        self.turns += len(rows)

    def go_on_after(self, turns: int, now_ns: int, cells: list[int], updates: list[int]) -> None:
        """So many turns with tokens were taken, and results, by an :class:`Accelerator`; see :meth:`TurnLog.append`."""
        self.log.append(turns, cells, updates)
        self.now_ns = now_ns
        self.turns += turns
        if turns:
            self._scheduled_nothing = False
            self._fruitless_turns = self._idle_turns = 0

    def idle_until(self, turns: int, now_ns: int, cells: list[int], updates: list[int]) -> None:
        """So many turns that scheduled nothing were taken, each with a sleep behind it; see :meth:`TurnLog.append`."""
        self.log.append(turns, cells, updates)
        self.now_ns = now_ns
        self.turns += turns
        self.idle_sleeps += turns

    def block_on_oldest(self) -> bool:
        """Wait for the oldest step in flight; True."""
        self._blocked_on = self.steps.popleft()
        return True

    def _take_in(self, now: int) -> int:
        """Drain the input queue; returns the earliest arrival among what was drained."""
        inbox = self.inbox
        first = now
        while inbox and inbox[0].arrived_ns <= now:
            state = inbox.popleft()
            first = min(first, state.arrived_ns)
            self.scheduler.add(state, now)
            if self.watcher is not None:
                self.watcher.added(state, now)
        return first

    def _let_go(self, now: int) -> None:
        """Requests whose clients have left; of one that the engine has not taken in it hears after that."""
        aborts, self._aborts = self._aborts, []
        for state in aborts:
            if state in self.inbox:
                self._aborts.append(state)
            elif self.scheduler.abort(state, now):
                self._end([state], now)

    def _turn(self, now: int, first_arrival: int) -> bool:
        """Schedule a step and send it off; False if it is empty."""
        step = self.scheduler.schedule(now)
        status = self._status
        tokens = step.tokens
        prefill_tokens = step.prefill_tokens
        executor = self.executor
        if tokens:
            times = executor.launch(step, now + self._entry_ns) or self._no_times
            self._fruitless_turns = 0
            self._idle_turns = 0
        else:
            self._pass_empty(step, now)
            times = [now] * (3 * executor.pp_size)
            waits = status.running or status.waiting
            is_due = status.deferred or self.scheduler.status().transferring
            if waits and not (is_due or self._has_tokens_in_flight()):
                self._fruitless_turns += 1
            if status.stuck is not None and self.gives_up:
                self._fruitless_turns = self.watchdog_turns + 1
        step.row = self.log.begin(
            (
                now,
                first_arrival,
                status.cause,
                tokens,
                step.sampled,
                step.decodes,
                step.prefills,
                prefill_tokens,
                step.prefill_context + step.decode_context,
                status.free_blocks,
                status.running,
                status.waiting,
                len(self.steps),
                step.done_ns,
                0,
            ),
            times,
        )
        self.steps.append(step)
        if self.watcher is not None:
            self.watcher.scheduled(step, now)
        return tokens > 0

    def _pass_empty(self, step: Step, now: int) -> None:
        self.executor.pass_empty(step, now)
        if self.workers is not None:
            step.done_ns = max(step.done_ns, self.workers.passed(step, now, self.executor.stage_free_ns))

    def _has_tokens_in_flight(self) -> bool:
        return any(step.tokens for step in self.steps)

    def _arrived(self, step: Step, times: Sequence[int]) -> None:
        """The way of a step is known that was not when it was sent off."""
        self.log.complete(step.row, step.done_ns, times)
        if step is self._blocked_on:
            self.next_ns = max(step.done_ns, self.now_ns)
            if self.agenda is not None:
                self.agenda.wake(self, self.next_ns)

    def _take_tokens(self, step: Step, at: int) -> bool:
        """The oldest step is back; returns whether a request ended with it."""
        if self._aborts:
            self._let_go(at)
        if self.workers is not None:
            self.workers.collect(at)
        ended = self.scheduler.update(step, at)
        self.log.taken(at)
        if self.watcher is not None:
            self.watcher.updated(step, at, ended)
        if ended:
            self._end(ended, at)
            return True
        return False

    def _end(self, ended: Sequence[RequestState], at: int) -> None:
        for state in ended:
            self.outstanding_tokens -= state.final_tokens
            if self._on_end is not None:
                self._on_end(self, state, at)

    def _sleep(self) -> None:
        if self.scheduler.has_work():
            self.now_ns += self.options.engine_idle_sleep_ns
            self.idle_sleeps += 1

    def _give_up(self) -> None:
        """Turn after turn was fruitless."""
        self.is_deadlocked = True
        self._fruitless_turns = 0
        self.next_ns = None
        if not self.gives_up:
            return
        status = self.scheduler.status()
        first = self.scheduler.first_in_line()
        raise NoProgressError(
            f"instance {self.index} makes no progress at {self.now_ns} ns: {status.running} requests "
            f"running, {self.num_waiting} waiting, none in flight, {status.free_blocks} of "
            f"{status.usable_blocks} KV blocks free; first in line is request {first.request.index} with "
            f"{first.num_tokens} tokens ({-(-first.num_tokens // self.options.block_size)} blocks)"
        )
