"""All links of a cluster, and who may use them when.

A link carries one transfer after the other. Transfers are served first come, first served, in the order of
simulated time over everyone who uses the link. So a transfer over links that others use too waits in line until
the simulation has reached the time at which it was asked for; over links of one's own it is resolved at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from penstock.units import NEVER_NS

Arrived = Callable[[int, int], None]
"""Called with when a transfer started and when it arrived, in ns."""


@dataclass(slots=True, eq=False)
class Link:
    """``free_ns`` is when the next transfer may start. ``is_shared``: several parties use it."""

    name: str
    is_shared: bool = False
    free_ns: int = 0


@dataclass(slots=True, order=True)
class _Transfer:
    """In line since ``at_ns``; of those asked for at one time the lower ``rank`` goes first, then the earlier call."""

    at_ns: int
    rank: int
    number: int
    path: tuple[Link, ...] = field(compare=False)
    occupancy_ns: int = field(compare=False)
    arrival_ns: int = field(compare=False)
    arrived: Arrived = field(compare=False)


class Network:
    """The owner of all links. As an actor it serves what is in line at its time; ``wake`` is told of that time."""

    def __init__(self, wake: Callable[[int], None] | None = None) -> None:
        self.next_ns: int | None = None
        self._links: dict[str, Link] = {}
        self._line: list[_Transfer] = []
        self._number = 0
        self._wake = wake

    @property
    def links(self) -> tuple[Link, ...]:
        """Every shared link asked for so far, in that order."""
        return tuple(self._links.values())

    def shared_link(self, name: str) -> Link:
        """The link of that name, which several parties may use."""
        link = self._links.get(name)
        if link is None:
            link = self._links[name] = Link(name, is_shared=True)
        return link

    def transfer(
        self,
        path: tuple[Link, ...],
        *,
        occupancy_ns: int,
        arrival_ns: int,
        at_ns: int,
        arrived: Arrived,
        rank: int = 0,
    ) -> None:
        """Send something over all links of ``path`` at once, no earlier than ``at_ns``.

        It starts when every link is free, takes each for ``occupancy_ns`` (bytes over bandwidth), and is there
        ``arrival_ns`` after its start (latency and the rest).
        """
        self._number += 1
        transfer = _Transfer(at_ns, rank, self._number, path, occupancy_ns, arrival_ns, arrived)
        if not any(link.is_shared for link in path):
            self._serve(transfer)
            return
        heapq.heappush(self._line, transfer)
        if self.next_ns is None or at_ns < self.next_ns:
            self.next_ns = at_ns
            if self._wake is not None:
                self._wake(at_ns)

    def run_until(self, limit_ns: int) -> None:
        """Serve all transfers that were asked for at the earliest time in line, if that is before ``limit_ns``.

        Who is told of an arrival may ask for another transfer, and that may come before the next in line."""
        line = self._line
        limit_ns = min(limit_ns, line[0].at_ns + 1) if line else limit_ns
        while line and line[0].at_ns < limit_ns:
            transfer = heapq.heappop(line)
            self.next_ns = line[0].at_ns if line else None
            self._serve(transfer)
        self.next_ns = line[0].at_ns if line else None

    def _serve(self, transfer: _Transfer) -> None:
        start = max(transfer.at_ns, max((link.free_ns for link in transfer.path), default=0))
        for link in transfer.path:
            link.free_ns = start + transfer.occupancy_ns
        transfer.arrived(start, min(start + transfer.arrival_ns, NEVER_NS))
