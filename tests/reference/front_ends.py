"""vLLM's API servers (``engine/core_client.py: DPLBAsyncMPClient``) and DP coordinator (``engine/coordinator.py``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from penstock.spec.data_parallel import DataParallelOptions

from .virtual_time import VirtualTime

NANOSECONDS_PER_MS = 1_000_000
QUIET_INTERVAL_MS = 5000
SETTLING_MS = 50


class FrontEnd:
    """An API server: it stamps a request with the wave, chooses a rank of ``ranks`` and remembers what it has there.

    ``counts`` are [waiting, running, KV usage] per rank as last published, plus what it has sent since.
    """

    def __init__(self, options: DataParallelOptions, ranks: Sequence[int], index: int) -> None:
        self.options = options
        self.index = index
        self.ranks = list(ranks)
        self.clients = options.front_ends
        self.counts: list[list[float]] = [[0, 0, 0.0] for _ in self.ranks]
        self.in_flight = [0] * len(self.ranks)
        self.start_index = len(self.ranks) * (index % options.front_ends) // options.front_ends
        self.wave = 0
        self.engines_running = False

    def choose(self) -> int:
        """The rank with the lowest score, the first from ``start_index`` on among equals."""
        size = len(self.ranks)
        best = min(
            ((self.start_index + i) % size for i in range(size)),
            key=self._score_0_32 if self.options.generation == "0.32" else self._score_0_19,
        )
        self.counts[best][0] += self.clients
        if self.options.generation == "0.32":
            self.start_index = (self.start_index + 1) % size
        return self.ranks[best]

    def _score_0_32(self, place: int) -> float:
        waiting, running, usage = self.counts[place]
        score = max(self.clients * self.in_flight[place], waiting + running)
        return score + waiting * 6.0 * max(0.0, usage - 0.5) if waiting else score

    def _score_0_19(self, place: int) -> float:
        waiting, running, _ = self.counts[place]
        return 4 * waiting + running

    def sent_to(self, rank: int) -> None:
        """A request of this front-end is on its way to ``rank``."""
        self.in_flight[self.ranks.index(rank)] += 1

    def finished_on(self, rank: int, how_many: int) -> None:
        """That many of its requests have finished on ``rank``."""
        self.in_flight[self.ranks.index(rank)] -= how_many

    def hear(self, counts: Sequence[Sequence[float]] | None, wave: int, *, running: bool) -> None:
        """The coordinator has published."""
        self.wave, self.engines_running = wave, running
        if counts is not None:
            self.counts = [list(counts[rank]) for rank in self.ranks]


class Coordinator:
    """The process that collects the ranks' counts, keeps the wave and tells all front-ends.

    ``broadcast(wave, exclude)`` sends START_DP_WAVE to the engines, ``publish(counts, wave, running)`` to the
    front-ends. Its clock shows whole milliseconds; it starts at 0 and has never published.
    """

    def __init__(
        self,
        time: VirtualTime,
        options: DataParallelOptions,
        broadcast: Callable[[int, Any], None],
        publish: Callable[[list[list[float]] | None, int, bool], None],
    ) -> None:
        self.time = time
        self.options = options
        self.broadcast = broadcast
        self.publish = publish
        self.wave = 0
        self.running = False
        self.from_front_ends: deque[tuple[int, int]] = deque()
        self.from_engines: deque[tuple[Any, ...]] = deque()
        self._counts: list[list[float]] = [[0, 0, 0.0] for _ in range(options.size)]
        self._counts_changed = False
        self._newest = (-1, -1)
        self._snapshot: list[list[float]] | None = None
        self._published_ms: int | None = None
        self._deadline_ns = 0
        self._wait()

    @property
    def has_messages(self) -> bool:
        """Whether it has something to read."""
        return bool(self.from_front_ends or self.from_engines)

    def next_ns(self) -> int | None:
        """At once if there is a message, else when it is tired of waiting for one."""
        return self.time.now if self.has_messages else self._deadline_ns

    def act(self) -> None:
        """One turn of its loop: at most one message of each side, or a publication of counts."""
        if self.has_messages:
            self._read()
        else:
            self._publish_counts()
        self._wait()

    def _wait(self) -> None:
        """Each message restarts the wait."""
        at_least = SETTLING_MS if self._snapshot is None else 0
        interval = self.options.stats_interval_ms if self._counts_changed else QUIET_INTERVAL_MS
        remaining = 0
        if self._published_ms is not None:
            remaining = interval - (self.time.now // NANOSECONDS_PER_MS - self._published_ms)
        self._deadline_ns = self.time.now + max(at_least, remaining) * NANOSECONDS_PER_MS

    def _publish_counts(self) -> None:
        """The state of a finished step, if there is one; else the counts as they are."""
        if self._snapshot is not None:
            counts, self._snapshot = self._snapshot, None
        else:
            counts = self._copy_of_counts()
            self._counts_changed = False
        self.publish(counts, self.wave, self.running)
        self._published_ms = self.time.now // NANOSECONDS_PER_MS

    def _read(self) -> None:
        changed = False
        if self.from_front_ends:
            changed = self._first_request(*self.from_front_ends.popleft())
        if self.from_engines:
            kind, rank, *rest = self.from_engines.popleft()
            if kind == "counts":
                self._note_counts(rank, *rest)
            elif kind == "wave_complete":
                changed = self._wave_complete(*rest) or changed
            else:
                changed = self._start_wave(rank, *rest) or changed
        if changed:
            self.publish(None, self.wave, self.running)

    def _first_request(self, rank: int, wave: int) -> bool:
        """A front-end has sent a request to engines that it believes paused. It names the rank as two bytes, the
        engines compare that with a number: nobody is left out."""
        if self.running:
            return False
        self.broadcast(self.wave, None if wave < self.wave else f"rank{rank}-as-bytes")
        if self.options.generation == "0.19":
            self.running = True
            return True
        return False

    def _note_counts(self, rank: int, waiting: int, running: int, usage: float, step: int, wave: int) -> None:
        if (wave, step) > self._newest:
            if self._counts_changed:
                self._snapshot = self._copy_of_counts()
            self._newest = (wave, step)
        self._counts[rank] = [waiting, running, usage]
        self._counts_changed = True

    def _wave_complete(self, wave: int) -> bool:
        if wave < self.wave:
            return False
        self.wave, self.running = wave + 1, False
        return True

    def _start_wave(self, rank: int, wave: int) -> bool:
        if wave < self.wave or (wave == self.wave and self.running):
            return False
        self.wave, self.running = wave, True
        self.broadcast(wave, rank)
        return True

    def _copy_of_counts(self) -> list[list[float]]:
        return [list(counts) for counts in self._counts]
