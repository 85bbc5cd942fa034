"""One data-parallel rank of a mixture of experts: vLLM's engine loop in lock-step with the other ranks.

``v1/engine/core.py: DPEngineCoreProc.run_busy_loop``. Every turn with work is exactly one forward on every rank: a
rank whose schedule() found nothing runs a dummy batch and waits for it. A *wave* begins when a request reaches
paused ranks and ends at an all-reduce that finds no request unfinished anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from penstock.engine.kernel import Agenda
from penstock.engine.lockstep import FinishSync, LockstepGroup, RankPipeline
from penstock.engine.replica import Replica, Watcher
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.recording.records import Cause
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import UNKNOWN_NS, Step
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.units import NS_PER_S


class RankWatcher(Protocol):
    """Sees the dummy batches of a rank."""

    def dummy(self, replica: LockstepReplica, submitted_ns: int, returned_ns: int) -> None:
        """A dummy batch has come back."""
        ...


class Runs(Protocol):
    """Takes several forwards of all ranks of a group at once."""

    def take_turns(self) -> bool:
        """Take some, if there is nothing else to do in them; whether it did. The rank that calls it has its awaited
        step back, and awaits it again, or rather the same step some forwards later, if it did."""
        ...


class LockstepReplica(Replica):
    """A :class:`~penstock.engine.replica.Replica` that is rank ``rank`` of a group. ``tell(now, kind, ...)`` sends a
    message to the coordinator, ``tell_ended(now, requests)`` one to the front-ends of requests that have ended."""

    def __init__(
        self,
        index: int,
        rank: int,
        scheduler: EngineScheduler,
        group: LockstepGroup,
        options: SchedulerOptions,
        parallel: DataParallelOptions,
        log: TurnLog,
        *,
        agenda: Agenda,
        tell: Callable[..., None],
        tell_ended: Callable[[int, Sequence[RequestState]], None],
        overhead: EngineOverhead | None = None,
        on_end: Callable[[Replica, RequestState, int], None] | None = None,
        watcher: Watcher | None = None,
        workers: StepWorkers | None = None,
    ) -> None:
        self.rank = rank
        self.group = group
        self.pipeline: RankPipeline = group.pipelines[rank]
        self.parallel = parallel
        self.engines_running = False
        self.wave = 0
        self.step_counter = 0
        self.dummies = 0
        self.throttles = False
        self.rank_watcher: RankWatcher | None = None
        self.runs: Runs | None = None
        self.awaited: Step | None = None
        self._cadenced = scheduler if isinstance(scheduler, VllmScheduler) else None
        self._tell = tell
        self._tell_ended = tell_ended
        self._mail: deque[tuple[RequestState | None, int, int | str | None]] = deque()
        self._counts = (0, 0)
        self._awaits_input = False
        self._has_ended_some = False
        self._has_read = False
        self._loop = self._run()
        super().__init__(
            index,
            scheduler,
            self.pipeline,
            options,
            log,
            overhead=overhead,
            agenda=agenda,
            on_end=on_end,
            watcher=watcher,
            workers=workers,
        )
        if workers is not None:
            self.pipeline.serve(workers)
        group.when_synced(rank, self._go_on_at)
        group.requests_of.append(self._has_request)
        next(self._loop)  # to where it awaits its first message

    # --- what comes from outside ----------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a message."""
        return self._awaits_input and self.next_ns is None

    def receive(self, at_ns: int, state: RequestState, wave: int) -> None:
        """A request has come, stamped with the wave that its front-end knew of."""
        self.inbox.append(state)
        self.outstanding_tokens += state.final_tokens
        self._mail.append((state, wave, None))
        if self.is_idle:
            self._go_on_at(at_ns)

    def start_wave(self, at_ns: int, wave: int, exclude: int | str | None) -> None:
        """START_DP_WAVE has come from the coordinator."""
        self._mail.append((None, wave, exclude))
        if self.is_idle:
            self._go_on_at(at_ns)

    def abort(self, state: RequestState, now: int) -> None:
        """See :meth:`Replica.abort`."""
        self._aborts.append(state)
        if self.is_idle:
            self._go_on_at(now)

    @property
    def is_undisturbed(self) -> bool:
        """Whether a wave is under way and the rank has nothing to read or to tell, nor anybody who watches."""
        status = self._status
        return (
            self.step_counter > 0
            and self.engines_running
            and not self._mail
            and not self._aborts
            and self.watcher is None
            and self.rank_watcher is None
            and self._counts == (status.running, status.waiting)
        )

    def go_on_after_run(
        self, turns: int, now_ns: int, cells: list[int], updates: list[int], done_ns: int
    ) -> None:
        """So many turns with tokens were taken, and as many results, for all ranks at once; the step that it awaits is
        now the last of them, back at ``done_ns``."""
        self.go_on_after(turns, now_ns, cells, updates)
        self.step_counter += turns
        self.pipeline.go_on_after(turns, cells[-3:], done_ns)
        self._go_on_at(done_ns)

    def _go_on_at(self, at_ns: int) -> None:
        """What it waits for is known to come at ``at_ns``."""
        self.next_ns = at_ns
        assert self.agenda is not None
        self.agenda.wake(self, at_ns)

    # --- events ---------------------------------------------------------------------------------------------

    def run_until(self, limit_ns: int) -> None:
        """See :meth:`Replica.run_until`."""
        agenda = self.agenda
        assert agenda is not None
        self._has_ended_some = False
        while (at_ns := self.next_ns) is not None and at_ns < limit_ns and at_ns < agenda.limit_ns:
            if at_ns > self.now_ns:
                self.now_ns = at_ns
            self.next_ns = None
            self.next_ns = next(self._loop)
            if self._has_ended_some and self.stops_on_end:
                return

    def _run(self) -> Generator[int | None]:
        """The loop. It yields when it can go on, None where others decide that."""
        scheduler = self.scheduler
        queue = self.steps
        depth = self.options.max_in_flight
        overhead = self.overhead
        parallel = self.parallel
        interval = parallel.sync_interval
        cadence = parallel.prefill_schedule_interval
        is_0_19 = parallel.generation == "0.19"
        while True:
            was_running = self.engines_running
            first_arrival = yield from self._take_input()
            if self._has_read and not is_0_19:
                self._publish_counts()

            executed = False
            blocks = True
            if scheduler.has_work():
                if cadence > 1:
                    self.throttles = self.step_counter % cadence != 0
                    if self._cadenced is not None:
                        self._cadenced.throttles_prefills = self.throttles
                executed = self._turn(self.now_ns, first_arrival)
                self.now_ns += overhead.schedule_ns
                blocks = len(queue) >= depth or not (executed or scheduler.has_work())
            if blocks and queue:
                self.awaited = step = queue.popleft()
                while True:
                    if step.done_ns == UNKNOWN_NS:
                        self._blocked_on = step
                        yield None
                        self._blocked_on = None
                    elif step.done_ns > self.now_ns:
                        yield step.done_ns
                    if self.runs is None or not self.runs.take_turns():
                        break
                self.awaited = None
                self._take_tokens(step, self.now_ns)
                self.now_ns += overhead.update_ns
            self.turns += 1
            if not executed and scheduler.has_work():
                self.idle_sleeps += 1
                if self._fruitless_turns > self.watchdog_turns:
                    self._give_up()
                if self.options.engine_idle_sleep_ns:
                    yield self.now_ns + self.options.engine_idle_sleep_ns
            status = self._publish_counts()

            unfinished = status.running + status.waiting > 0
            if not executed:
                if not unfinished and not self.engines_running:
                    continue
                submitted_ns = self.now_ns
                dummy = self._send_off_dummy()
                if dummy.done_ns == UNKNOWN_NS:
                    self._blocked_on = dummy
                    yield None
                    self._blocked_on = None
                elif dummy.done_ns > self.now_ns:
                    yield dummy.done_ns
                if dummy.row >= 0:
                    self.log.returned(dummy.row, self.now_ns)
                if self.rank_watcher is not None:
                    self.rank_watcher.dummy(self, submitted_ns, self.now_ns)

            self.step_counter += 1
            if (self.step_counter == 1 and not is_0_19) or self.step_counter % interval == 0:
                sync = self._enter_sync(unfinished=unfinished)
                if sync.at_ns is None:
                    yield None
                elif sync.at_ns > self.now_ns:
                    yield sync.at_ns
                self.engines_running = any(sync.unfinished)
            else:
                self.engines_running = True
            if not self.engines_running:
                if self.rank == 0:
                    self._tell(self.now_ns, "wave_complete", self.rank, self.wave)
                self.wave += 1
                self.step_counter = 0
            elif not was_running and self.rank == 0 and not is_0_19:
                self._tell(self.now_ns, "start_wave", self.rank, self.wave)

    def _take_input(self) -> Generator[int | None, None, int]:
        """Block while there is nothing to do, then take all messages; returns the earliest arrival among them."""
        first_arrival = self.now_ns
        self._has_read = bool(self._mail or self._aborts)
        while not (self.engines_running or self.scheduler.has_work() or self.steps):
            if not self._mail:
                self._awaits_input = True
                yield None
                self._awaits_input = False
                first_arrival = self.now_ns
                self._has_read = True
                if self._aborts:
                    self._let_go(self.now_ns)
            if self._mail:
                first_arrival = min(first_arrival, self._read())
        while self._mail:
            first_arrival = min(first_arrival, self._read())
        if self._aborts:
            self._let_go(self.now_ns)
        return first_arrival

    def _read(self) -> int:
        """Take the oldest message; returns when its request arrived, or now."""
        now = self.now_ns
        state, wave, exclude = self._mail.popleft()
        if state is None:
            if exclude != self.rank and wave >= self.wave:
                self.wave = wave
                self.engines_running = True
            return now
        if state not in self.inbox:
            return now  # its client has left already
        self.inbox.remove(state)
        self.scheduler.add(state, now)
        if self.watcher is not None:
            self.watcher.added(state, now)
        if wave > self.wave:
            self.wave = wave
        elif wave < self.wave and not self.engines_running:
            self.engines_running = True
            self._tell(now, "start_wave", self.rank, self.wave)
        return state.arrived_ns

    def _publish_counts(self) -> Any:
        """Tell the coordinator how many run and wait here, where that has changed."""
        status = self.scheduler.status()
        counts = status.running, status.waiting
        if counts != self._counts:
            self._counts = counts
            if self.parallel.load_balancing != "external":
                usage = 1.0 - status.free_blocks / status.usable_blocks if status.usable_blocks else 0.0
                self._tell(
                    self.now_ns,
                    "counts",
                    self.rank,
                    status.waiting,
                    status.running,
                    usage,
                    self.step_counter,
                    self.wave,
                )
        return status

    def _send_off_dummy(self) -> Step:
        """A forward of one token that belongs to nobody. It gets a row of the turn log unless no rank has a request:
        the stages are idle then, whatever they run."""
        now = self.now_ns
        status = self.scheduler.status()
        dummy = self.pipeline.dummy
        times = self.pipeline.launch_dummy(now) or self._no_times
        self.dummies += 1
        if not any(has_request() for has_request in self.group.requests_of):
            dummy.row = -1
            return dummy
        cause = status.cause if status.running or status.waiting else Cause.IDLE
        dummy.row = self.log.begin(
            (
                now,
                now,
                int(cause),
                0,
                0,
                0,
                0,
                0,
                0,
                status.free_blocks,
                status.running,
                status.waiting,
                len(self.steps),
                dummy.done_ns,
                0,
            ),
            times,
        )
        return dummy

    def _pass_empty(self, step: Step, now: int) -> None:
        self.pipeline.pass_empty(step, now)  # which tells the workers when it is the step's turn

    def _arrived(self, step: Step, times: Sequence[int]) -> None:
        done_ns = step.done_ns
        if step.row >= 0:
            self.log.complete(step.row, done_ns, times)
        if step is self._blocked_on:
            self._go_on_at(done_ns if done_ns > self.now_ns else self.now_ns)

    def _has_request(self) -> bool:
        status = self.scheduler.status()
        return status.running + status.waiting > 0 or bool(self.inbox)

    def _enter_sync(self, *, unfinished: bool) -> FinishSync:
        return self.group.enter_sync(
            self.rank,
            self.now_ns,
            unfinished=unfinished,
            wave=self.wave,
            step_counter=self.step_counter,
        )

    def _end(self, ended: Sequence[RequestState], at: int) -> None:
        super()._end(ended, at)
        self._has_ended_some = True
        self._tell_ended(at, ended)


def lockstep_notes(replica: Replica) -> tuple[str, ...]:
    """What a reader of the results must know of a rank and of its group."""
    if not isinstance(replica, LockstepReplica):
        return ()
    group = replica.group
    waited_ns = group.waited_for_ns[replica.rank]
    return notes_of_rank(
        replica.rank, group.size, replica.dummies, group.forwards, group.padding_tokens, waited_ns
    )


def notes_of_rank(
    rank: int, size: int, dummies: int, forwards: int, padding_tokens: int, waited_ns: int
) -> tuple[str, ...]:
    """The same from its counters, whoever served it."""
    return (
        f"rank {rank} of {size}: {dummies:,} of {forwards:,} forwards were dummy batches",
        f"rank {rank} of {size}: the other ranks' stages waited {waited_ns / NS_PER_S:.3f} s for it, summed",
        f"ranks of the group ran {padding_tokens:,} tokens of padding in CUDA graphs",
    )
