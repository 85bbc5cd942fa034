"""The process between ranks and front-ends: it collects counts, keeps the wave, and wakes ranks up.

vLLM's ``v1/engine/coordinator.py: DPCoordinatorProc.process_input_socket``.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from penstock.engine.kernel import Agenda
from penstock.spec.data_parallel import DataParallelOptions
from penstock.units import NS_PER_MS

QUIET_INTERVAL_MS = 5000
SETTLING_MS = 50

CountsOfRanks = list[tuple[int, int, float]]


class Deployment(Protocol):
    """What the coordinator speaks to. ``sent_ns`` may lie before ``now``: see :meth:`Coordinator.catch_up`."""

    def start_wave(self, now: int, wave: int, exclude: int | str | None) -> None:
        """Broadcast START_DP_WAVE to the ranks."""
        ...

    def publish(
        self, now: int, sent_ns: int, counts: CountsOfRanks | None, wave: int, *, running: bool
    ) -> None:
        """Tell the front-ends."""
        ...

    def is_quiet(self) -> bool:
        """Whether no rank will act unless a request comes."""
        ...


class Coordinator:
    """An :class:`~penstock.engine.kernel.Actor`. Its clock shows whole milliseconds; it starts at 0 and has never
    published then.

    Each message restarts its wait; when it has waited long enough it publishes counts, though nothing may have
    changed. While the deployment is quiet that concerns nobody: it then sleeps from ``deadline_ns`` on, so that a
    run can end, and makes up for it when somebody comes.
    """

    def __init__(self, agenda: Agenda, options: DataParallelOptions, deployment: Deployment) -> None:
        self.wave = 0
        self.running = False
        self.deadline_ns = 0
        self.next_ns: int | None = None
        self._agenda = agenda
        self._interval_ms = options.stats_interval_ms
        self._sets_running_itself = options.generation == "0.19"
        self._deployment = deployment
        self._from_front_ends: deque[tuple[int, int]] = deque()
        self._from_ranks: deque[tuple[Any, ...]] = deque()
        self._counts: CountsOfRanks = [(0, 0, 0.0)] * options.size
        self._changed = False
        self._newest = (-1, -1)
        self._snapshot: CountsOfRanks | None = None
        self._published_ms: int | None = None
        self._waits_since_ns = 0
        self._wait(0)

    # --- what reaches it ------------------------------------------------------------------------------------

    def hear_from_front_end(self, at_ns: int, rank: int, wave: int) -> None:
        """A front-end that believes the ranks paused has sent a request to ``rank``."""
        self._from_front_ends.append((rank, wave))
        self._wake(at_ns)

    def hear_from_rank(self, at_ns: int, *message: Any) -> None:
        """("counts", rank, waiting, running, usage, step counter, wave), or ("wave_complete" | "start_wave", rank,
        wave)."""
        self._from_ranks.append(message)
        self._wake(at_ns)

    def _wake(self, at_ns: int) -> None:
        self.catch_up(at_ns)
        if self.next_ns is None or self.next_ns > at_ns:
            self.next_ns = at_ns
            self._agenda.wake(self, at_ns)

    def catch_up(self, now: int) -> None:
        """Somebody does something at ``now``: publish what was passed over while nobody did, and be awake."""
        if self.next_ns is not None:
            return
        while self.deadline_ns < now:
            at_ns = self.deadline_ns
            self._publish_counts(now, at_ns)
            self._wait(at_ns)
        self.next_ns = self.deadline_ns
        self._agenda.wake(self, self.deadline_ns)

    @property
    def timer_ns(self) -> int | None:
        """When it would publish counts if nobody acts before, were the deployment not quiet; None if it has
        something to read, or does not wait."""
        if self._from_front_ends or self._from_ranks or self.deadline_ns == self._waits_since_ns:
            return None
        return self.deadline_ns

    # --- its loop -------------------------------------------------------------------------------------------

    def run_until(self, limit_ns: int) -> None:
        """Read what has come, at most one message of each side a turn, or publish counts."""
        agenda = self._agenda
        while self.next_ns is not None and self.next_ns < min(limit_ns, agenda.limit_ns):
            now = self.next_ns
            if self._from_front_ends or self._from_ranks:
                self._read(now)
            elif now > self._waits_since_ns and self._deployment.is_quiet():
                self.next_ns = None
                return
            else:
                self._publish_counts(now, now)
            self._wait(now)
            self.next_ns = now if self._from_front_ends or self._from_ranks else self.deadline_ns

    def _wait(self, now: int) -> None:
        at_least = SETTLING_MS if self._snapshot is None else 0
        remaining = 0
        if self._published_ms is not None:
            interval = self._interval_ms if self._changed else QUIET_INTERVAL_MS
            remaining = interval - (now // NS_PER_MS - self._published_ms)
        self._waits_since_ns = now
        self.deadline_ns = now + max(at_least, remaining) * NS_PER_MS

    def _publish_counts(self, now: int, at_ns: int) -> None:
        """The counts at the end of a finished step where they were kept, else the present ones."""
        if self._snapshot is not None:
            counts, self._snapshot = self._snapshot, None
        else:
            counts = self._counts[:]
            self._changed = False
        self._deployment.publish(now, at_ns, counts, self.wave, running=self.running)
        self._published_ms = at_ns // NS_PER_MS

    def _read(self, now: int) -> None:
        news = False
        if self._from_front_ends:
            news = self._first_request(now, *self._from_front_ends.popleft())
        if self._from_ranks:
            kind, rank, *rest = self._from_ranks.popleft()
            if kind == "counts":
                self._note_counts(rank, *rest)
            elif kind == "wave_complete":
                news = self._wave_complete(*rest) or news
            else:
                news = self._start_wave(now, rank, *rest) or news
        if news:
            self._deployment.publish(now, now, None, self.wave, running=self.running)

    def _first_request(self, now: int, rank: int, wave: int) -> bool:
        if self.running:
            return False
        # The front-end names the rank as two bytes, a rank compares that with its number: nobody is left out.
        self._deployment.start_wave(now, self.wave, None if wave < self.wave else f"rank{rank}-as-bytes")
        if self._sets_running_itself:
            self.running = True
        return self._sets_running_itself

    def _note_counts(self, rank: int, waiting: int, running: int, usage: float, step: int, wave: int) -> None:
        if (wave, step) > self._newest:
            # The first message of a later step: what is known now is how the earlier step ended.
            if self._changed:
                self._snapshot = self._counts[:]
            self._newest = (wave, step)
        self._counts[rank] = (waiting, running, usage)
        self._changed = True

    def _wave_complete(self, wave: int) -> bool:
        if wave < self.wave:
            return False
        self.wave, self.running = wave + 1, False
        return True

    def _start_wave(self, now: int, rank: int, wave: int) -> bool:
        if wave < self.wave or (wave == self.wave and self.running):
            return False
        self.wave, self.running = wave, True
        self._deployment.start_wave(now, wave, rank)
        return True
