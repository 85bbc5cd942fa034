"""Simulated time for everyone: a heap of things that happen, and processes that wait for moments or for steps."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from enum import IntEnum
from itertools import count


class Phase(IntEnum):
    """What happens first of all that happens at one time."""

    ARRIVAL = 0
    LINK = 1
    ENGINE = 2


class World:
    """The clock. Events at one time come by phase, then by rank, then in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0
        self._events: list[tuple[int, Phase, tuple[int, ...], int, Callable[[], None]]] = []
        self._number = count()

    def at(self, time: int, phase: Phase, rank: tuple[int, ...], happen: Callable[[], None]) -> None:
        """Plan an event."""
        assert time >= self.now, "an event in the past"
        heapq.heappush(self._events, (time, phase, rank, next(self._number), happen))

    def run(self, until: int | None = None) -> None:
        """Let everything happen, or all that happens before ``until``."""
        while self._events and (until is None or self._events[0][0] < until):
            self.now, _, _, _, happen = heapq.heappop(self._events)
            happen()
