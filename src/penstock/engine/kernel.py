"""The agenda of a simulation: who acts next, and when.

Actors hold their own clocks. Anyone may wake an actor, at any time that has not passed; an entry that its actor has
left behind is dropped when it comes up. What acts at one instant acts in the order of phases, then of ranks: what
arrives is seen by those who act then.
"""

from __future__ import annotations

import heapq
from collections.abc import Container
from enum import IntEnum
from typing import Protocol

from penstock.units import NEVER_NS


class Phase(IntEnum):
    """The order of what happens at one instant."""

    MESSAGE = 0  # deliveries: what was sent arrives
    LINK = 1  # transfers start
    CONTROL = 2  # coordinators and proxies decide
    WORKER = 3  # workers look
    ENGINE = 4  # replicas schedule and take results


class Actor(Protocol):
    """Something with a clock. ``next_ns`` is when it acts next, None while it waits to be woken."""

    next_ns: int | None

    def run_until(self, limit_ns: int) -> None:
        """Do everything that is to be done before ``limit_ns``, or less; ``next_ns`` says what is left."""
        ...


class Foresight(Protocol):
    """Knows who can touch whom."""

    def untouched_until_ns(self, actor: Actor) -> int:
        """Before when nobody touches ``actor``, who acts next of all, as long as nobody comes from outside, and as long
        as it wakes nobody itself; 0 where that is not known."""
        ...


class Agenda:
    """Who acts next. ``limit_ns`` bounds the actor that runs: it must not act at or after that time, as somebody
    before it in the order will. It falls when the running actor wakes somebody."""

    def __init__(self) -> None:
        self.limit_ns = NEVER_NS
        self._entries: list[tuple[int, int, Actor]] = []
        self._keys: dict[Actor, int] = {}
        self._running: Actor | None = None
        self._running_key = -1
        self._bound_ns = NEVER_NS

    def add(self, actor: Actor, phase: Phase, rank: int) -> None:
        """Let an actor take part. Each pair of phase and rank is one actor's."""
        key = (int(phase) << 32) + rank
        if key in self._keys.values():
            raise ValueError(f"two actors of phase {phase.name} with rank {rank}")
        self._keys[actor] = key

    def replace(self, actor: Actor, other: Actor) -> None:
        """Let ``other`` act in the place of an actor that has not acted and was not woken."""
        self._keys[other] = self._keys.pop(actor)

    def wake(self, actor: Actor, at_ns: int) -> None:
        """Let ``actor`` act at ``at_ns``, which is its ``next_ns``. The running actor need not be told."""
        if actor is self._running:
            return
        key = self._keys[actor]
        heapq.heappush(self._entries, (at_ns, key, actor))
        limit = at_ns + 1 if key > self._running_key else at_ns
        if limit < self.limit_ns:
            self.limit_ns = limit

    def stop_at(self, limit_ns: int) -> None:
        """Something happens at ``limit_ns`` that the running actor must not overtake."""
        if self._running is not None:
            self.limit_ns = min(self.limit_ns, limit_ns)
            self._bound_ns = min(self._bound_ns, limit_ns)

    def next_ns(self) -> int:
        """When somebody acts next; NEVER_NS if nobody does."""
        entries = self._entries
        while entries and (entries[0][2].next_ns != entries[0][0] or entries[0][2] is self._running):
            heapq.heappop(entries)
        return entries[0][0] if entries else NEVER_NS

    def next_of_others(self, actors: Container[Actor]) -> int:
        """When somebody who is not among ``actors``, one of whom runs, acts next, or what bounds these all comes."""
        others = (at for at, _, actor in self._entries if actor.next_ns == at and actor not in actors)
        return min(self._bound_ns, min(others, default=NEVER_NS))

    def next_is(self, phase: Phase) -> bool:
        """Whether whoever acts next is of ``phase``; somebody must (:meth:`next_ns`)."""
        return self._entries[0][1] >> 32 == phase

    def run_next(self, limit_ns: int, *, alone: bool, lookahead: Foresight | None = None) -> Actor:
        """Let the next actor act until somebody else's turn comes, or ``limit_ns``; returns it.

        ``alone``: nothing that it does before ``limit_ns`` concerns anybody, so it goes through to there. A
        ``lookahead`` may let it act when others do that will not touch it. There must be an actor that acts before
        ``limit_ns`` (:meth:`next_ns`).
        """
        _, key, actor = heapq.heappop(self._entries)
        self._running, self._running_key = actor, key
        self.limit_ns = self._bound_ns = limit_ns
        if not alone:
            following_ns = self.next_ns()
            if following_ns < limit_ns:
                ahead_ns = following_ns + 1 if self._entries[0][1] > key else following_ns
                if lookahead is not None:
                    ahead_ns = max(ahead_ns, lookahead.untouched_until_ns(actor))
                self.limit_ns = min(ahead_ns, limit_ns)
        actor.run_until(self.limit_ns)
        self._running, self._running_key = None, -1
        self.limit_ns = NEVER_NS
        if actor.next_ns is not None:
            heapq.heappush(self._entries, (actor.next_ns, key, actor))
        return actor
