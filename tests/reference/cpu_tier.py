"""vLLM's CPU tier below the GPU's KV cache (``v1/kv_offload/cpu``): chunks, who is given up, who may be read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.spec.kv_tier import TierOptions


@dataclass(slots=True)
class Chunk:
    """A chunk in the tier. ``readers`` is -1 while it is being written."""

    number: int
    readers: int = -1


class Policy(Protocol):
    """Who is given up."""

    chunks: dict[int, Chunk]

    def insert(self, key: int, chunk: Chunk) -> None:
        """A chunk is about to be written."""

    def evict(self, count: int, protected: Collection[int]) -> list[Chunk] | None:
        """Give up ``count`` chunks that nobody reads or writes, none of ``protected``; None if there are not as
        many, and then nothing changes."""

    def missed(self, keys: Sequence[int]) -> None:
        """Chunks of a request are offered and not there."""

    def finished(self, keys: Sequence[int], only_inserted: Collection[int], reused: Collection[int]) -> None:
        """A request ends that used ``keys``, its first in front."""


class LRU:
    """The chunk whose rank is the lowest goes first."""

    def __init__(self, capacity: int) -> None:
        del capacity
        self.chunks: dict[int, Chunk] = {}
        # In order of rank.
        self._ranked: OrderedDict[int, None] = OrderedDict()

    def insert(self, key: int, chunk: Chunk) -> None:
        """See :class:`Policy`."""
        self.chunks[key] = chunk
        self._ranked[key] = None

    def evict(self, count: int, protected: Collection[int]) -> list[Chunk] | None:
        """See :class:`Policy`."""
        keys = [key for key in self._ranked if self.chunks[key].readers == 0 and key not in protected]
        if len(keys) < count:
            return None
        for key in keys[:count]:
            del self._ranked[key]
        return [self.chunks.pop(key) for key in keys[:count]]

    def missed(self, keys: Sequence[int]) -> None:
        """Nothing to learn."""

    def finished(self, keys: Sequence[int], only_inserted: Collection[int], reused: Collection[int]) -> None:
        """All get new ranks, the tail the lowest."""
        del only_inserted, reused
        for key in reversed(keys):
            if key in self.chunks:
                self._ranked.move_to_end(key)


class ARC:
    """Adaptive replacement: ``recent`` (T1) used once, ``frequent`` (T2) more often, and the ghosts of both."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.chunks: dict[int, Chunk] = {}
        self.recent: OrderedDict[int, None] = OrderedDict()
        self.frequent: OrderedDict[int, None] = OrderedDict()
        self.recent_ghosts: OrderedDict[int, None] = OrderedDict()
        self.frequent_ghosts: OrderedDict[int, None] = OrderedDict()
        self.target: float = 0

    def insert(self, key: int, chunk: Chunk) -> None:
        """See :class:`Policy`."""
        self.chunks[key] = chunk
        self.recent[key] = None
        self.recent_ghosts.pop(key, None)
        self.frequent_ghosts.pop(key, None)

    def evict(self, count: int, protected: Collection[int]) -> list[Chunk] | None:
        """See :class:`Policy`."""
        recent, frequent = (
            [key for key in keys if self.chunks[key].readers == 0 and key not in protected]
            for keys in (self.recent, self.frequent)
        )
        size = len(self.recent)
        chosen: list[tuple[int, bool]] = []
        for _ in range(count):
            if recent and (size >= int(self.target) or not frequent):
                chosen.append((recent.pop(0), True))
                size -= 1
            elif frequent:
                chosen.append((frequent.pop(0), False))
            else:
                return None
        for key, was_recent in chosen:
            del (self.recent if was_recent else self.frequent)[key]
            (self.recent_ghosts if was_recent else self.frequent_ghosts)[key] = None
        for ghosts in (self.recent_ghosts, self.frequent_ghosts):
            while len(ghosts) > self.capacity:
                ghosts.popitem(last=False)
        return [self.chunks.pop(key) for key, _ in chosen]

    def missed(self, keys: Sequence[int]) -> None:
        """A ghost shows which of the two lists is too short."""
        for key in reversed(keys):
            if key in self.recent_ghosts:
                step = max(1, len(self.frequent_ghosts) / len(self.recent_ghosts))
                self.target = min(self.target + step, self.capacity)
                self.recent_ghosts.move_to_end(key)
            elif key in self.frequent_ghosts:
                step = max(1, len(self.recent_ghosts) / len(self.frequent_ghosts))
                self.target = max(self.target - step, 0)
                self.frequent_ghosts.move_to_end(key)

    def finished(self, keys: Sequence[int], only_inserted: Collection[int], reused: Collection[int]) -> None:
        """What was there before the request stored it is frequent."""
        for key in reversed(keys):
            if key in reused and key in self.recent:
                del self.recent[key]
                self.frequent[key] = None
            elif key in self.frequent and (key in only_inserted or key in reused):
                self.frequent.move_to_end(key)
            elif key in self.recent and key in only_inserted:
                self.recent.move_to_end(key)


@dataclass(slots=True)
class Access:
    """What one request did with the tier."""

    keys: dict[int, int] = field(default_factory=dict)
    inserted: set[int] = field(default_factory=set)
    reused: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Stored:
    """What is to be written where, and the chunks given up for it."""

    keys: tuple[int, ...] = ()
    chunks: tuple[int, ...] = ()
    evicted: tuple[int, ...] = ()


class CPUTier:
    """vLLM's ``CPUOffloadingManager``."""

    def __init__(self, options: TierOptions) -> None:
        self.options = options
        self.policy: Policy = (ARC if options.eviction_policy == "arc" else LRU)(options.cpu_chunks)
        self.never_used = list(range(options.cpu_chunks))
        self.freed: list[int] = []
        self.offers: dict[int, int] = {}
        self.accesses: dict[int, Access] = {}

    def state(self, key: int) -> str:
        """``miss``, ``pending`` while it is being written, or ``hit``."""
        chunk = self.policy.chunks.get(key)
        if chunk is None:
            return "miss"
        return "pending" if chunk.readers < 0 else "hit"

    def begin_load(self, request: int, keys: Sequence[int], position: int) -> tuple[int, ...]:
        """Read chunks, the first of which is number ``position`` of the request: where they lie."""
        chunks = [self.policy.chunks[key] for key in keys]
        for chunk in chunks:
            chunk.readers += 1
        self._note(request, keys, position, reused=keys)
        return tuple(chunk.number for chunk in chunks)

    def end_load(self, keys: Iterable[int]) -> None:
        """The chunks were read."""
        for key in keys:
            self.policy.chunks[key].readers -= 1

    def begin_store(self, request: int, keys: Sequence[int], position: int) -> Stored | None:
        """A request offers chunks, the first of which is its number ``position``: what of them is to be written;
        None if there is no room for all of that."""
        if self.options.store_threshold >= 2:
            for key in keys:
                self.offers[key] = self.offers.get(key, 0) + 1
        ready = [key for key in keys if self.state(key) == "hit"]
        absent = [
            key
            for key in keys
            if self.state(key) == "miss"
            and (self.options.store_threshold < 2 or self.offers[key] >= self.options.store_threshold)
        ]
        access = self.accesses.setdefault(request, Access())
        self.policy.missed([key for key in absent if key not in access.missed])
        access.missed.update(absent)
        noted = set(ready) | set(absent)
        self._note(request, keys, position, reused=ready, only=noted)
        if not absent:
            return Stored()
        lacking = len(absent) - len(self.never_used) - len(self.freed)
        evicted: list[Chunk] | None = []
        if lacking > 0:
            evicted = self.policy.evict(lacking, set(keys))
            if evicted is None:
                return None
        self.freed += [chunk.number for chunk in evicted]
        chunks = [Chunk(self.never_used.pop(0) if self.never_used else self.freed.pop()) for _ in absent]
        for key, chunk in zip(absent, chunks, strict=True):
            self.policy.insert(key, chunk)
        access.inserted.update(absent)
        return Stored(
            tuple(absent),
            tuple(chunk.number for chunk in chunks),
            tuple(chunk.number for chunk in evicted),
        )

    def end_store(self, keys: Iterable[int]) -> None:
        """The chunks were written and can be read."""
        for key in keys:
            self.policy.chunks[key].readers = 0

    def finished(self, request: int) -> None:
        """A request ends: what it used is renewed."""
        access = self.accesses.pop(request, Access())
        keys = sorted(access.keys, key=access.keys.__getitem__)
        self.policy.finished(keys, access.inserted - access.reused, access.reused)

    def _note(
        self,
        request: int,
        keys: Sequence[int],
        position: int,
        *,
        reused: Iterable[int],
        only: Collection[int] | None = None,
    ) -> None:
        access = self.accesses.setdefault(request, Access())
        for place, key in enumerate(keys, position):
            if only is None or key in only:
                access.keys.setdefault(key, place)
        access.reused.update(key for key in reused if key not in access.inserted)
