"""Processes that block and messages that take their time, in virtual time.

At one instant come messages, in the order they were sent, then arrivals, then processes by their place in the list. A
process runs until it blocks, and who comes next is asked again after every single action.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol


@dataclass(slots=True, eq=False)
class Signal:
    """Something a process can block on. ``ready_ns`` None: not known yet when it will come true."""

    ready_ns: int | None = None


class Process(Protocol):
    """Something that acts by itself."""

    def next_ns(self) -> int | None:
        """When it wants to act next; None while it waits for others."""
        ...

    def act(self) -> None:
        """Run until it blocks."""
        ...


class VirtualTime:
    """The clock, the messages under way, and who acts next."""

    def __init__(self) -> None:
        self.now = 0
        self.arrivals: deque[tuple[int, Callable[[], None]]] = deque()
        self._order = count()
        self._under_way: list[tuple[int, int, Callable[[], None]]] = []

    def send(self, latency_ns: int, deliver: Callable[[], None]) -> None:
        """``deliver`` is called when the message is there."""
        heapq.heappush(self._under_way, (self.now + latency_ns, next(self._order), deliver))

    def blocked(self, signal: Signal) -> Generator[Signal]:
        """Block until ``signal`` is true, if it is not true already (``yield from`` it)."""
        while signal.ready_ns is None or signal.ready_ns > self.now:
            yield signal

    def run(self, processes: Sequence[Process], *, over: Callable[[], bool]) -> None:
        """Until no arrival is left, ``over`` says so, and the next to act would be the first process: its timer
        alone never ends."""
        while True:
            actions: list[tuple[int, int, int, Callable[[], None]]] = []
            if self._under_way:
                actions.append((self._under_way[0][0], 0, 0, self._deliver))
            if self.arrivals:
                actions.append((self.arrivals[0][0], 1, 0, self._arrive))
            for place, process in enumerate(processes):
                at_ns = process.next_ns()
                if at_ns is not None:
                    actions.append((max(at_ns, self.now), 2, place, process.act))
            at_ns, kind, place, action = min(actions, key=lambda each: each[:3])
            if kind == 2 and place == 0 and at_ns > self.now and not self.arrivals and over():
                return
            self.now = max(self.now, at_ns)
            action()

    def _deliver(self) -> None:
        heapq.heappop(self._under_way)[2]()

    def _arrive(self) -> None:
        self.arrivals.popleft()[1]()
