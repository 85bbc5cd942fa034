"""Messages between the processes of a deployment: each takes its time, and is delivered in the order sent."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from penstock.engine.kernel import Agenda


class Messages:
    """An :class:`~penstock.engine.kernel.Actor`: everything that is on its way."""

    def __init__(self, agenda: Agenda) -> None:
        self.next_ns: int | None = None
        self._agenda = agenda
        self._sent = 0
        self._under_way: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def send(self, arrives_ns: int, deliver: Callable[..., None], *message: Any) -> None:
        """Call ``deliver(arrives_ns, *message)`` then."""
        heapq.heappush(self._under_way, (arrives_ns, self._sent, deliver, message))
        self._sent += 1
        if self.next_ns is None or arrives_ns < self.next_ns:
            self.next_ns = arrives_ns
            self._agenda.wake(self, arrives_ns)

    def run_until(self, limit_ns: int) -> None:
        """Deliver what arrives before ``limit_ns``."""
        under_way = self._under_way
        while under_way and under_way[0][0] < limit_ns:
            at_ns, _, deliver, message = heapq.heappop(under_way)
            deliver(at_ns, *message)
        self.next_ns = under_way[0][0] if under_way else None
