"""The chunks of KV in host memory: vLLM's ``v1/kv_offload/cpu/manager.py: CPUOffloadingManager``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from penstock.kv_transfer.eviction import POLICIES, Chunk, EvictionPolicy
from penstock.spec.kv_tier import TierOptions

MOST_OFFERS = 64_000
"""How many chunks are remembered that were offered and not stored yet (vLLM's ``max_tracker_size``)."""


class Found(Enum):
    """What a look for a chunk finds."""

    MISS = 0
    PENDING = 1  # it is being written
    HIT = 2


@dataclass(slots=True)
class _Access:
    """What one request did: its chunks by place in the request, those it inserted, those it found."""

    keys: dict[int, int] = field(default_factory=dict)
    inserted: set[int] = field(default_factory=set)
    reused: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Stored:
    """Which keys are to be written into which places, and how many chunks were given up for that."""

    keys: tuple[int, ...] = ()
    chunks: tuple[int, ...] = ()
    evicted: int = 0


class CPUTier:
    """Chunks by key; a key stands for a chunk's content and all before it. ``users``, by number,
    are told when others' chunks can be found, and whose: they may be waiting for that."""

    def __init__(self, options: TierOptions) -> None:
        self.capacity = options.cpu_chunks
        self.policy: EvictionPolicy = POLICIES[options.eviction_policy](options.cpu_chunks)
        self._threshold = options.store_threshold
        self.users: dict[int, Callable[[int, int], None]] = {}
        self._used_once = 0
        self._freed: list[int] = []
        self._offers: OrderedDict[int, int] = OrderedDict()
        self._accesses: dict[int, _Access] = {}

    def find(self, key: int) -> Found:
        """Whether a chunk is here."""
        chunk = self.policy.chunks.get(key)
        if chunk is None:
            return Found.MISS
        return Found.PENDING if chunk.readers < 0 else Found.HIT

    def begin_load(self, request: int, keys: Sequence[int], place: int) -> tuple[int, ...]:
        """Read chunks, the first of which is number ``place`` of the request; returns where they lie."""
        chunks = [self.policy.chunks[key] for key in keys]
        for chunk in chunks:
            chunk.readers += 1
        self._note(request, enumerate(keys, place), keys)
        return tuple(chunk.number for chunk in chunks)

    def end_load(self, keys: Iterable[int]) -> None:
        """The chunks were read."""
        for key in keys:
            chunk = self.policy.chunks[key]
            chunk.readers -= 1
            if not chunk.readers:
                self.policy.idle(key)

    def begin_store(self, request: int, keys: Sequence[int], place: int) -> Stored | None:
        """A request offers chunks, the first of which is its number ``place``; returns what of them is to be
        written, or None where there is no room for all of that."""
        chunks = self.policy.chunks
        if self._threshold >= 2:
            self._count_offers(keys)
        access = self._accesses.setdefault(request, _Access())
        ready: set[int] = set()
        if self._threshold < 2 and chunks.keys().isdisjoint(keys):
            absent = list(keys)
        else:
            ready = {key for key in keys if key in chunks and chunks[key].readers >= 0}
            absent = [key for key in keys if key not in chunks and self._is_wanted(key)]
        newly_missed = [key for key in absent if key not in access.missed]
        self.policy.missed(newly_missed)
        access.missed.update(newly_missed)
        wanted = ready.union(absent)
        self._note(request, ((at, key) for at, key in enumerate(keys, place) if key in wanted), ready)
        if not absent:
            return Stored()
        lacking = len(absent) - len(self._freed) - (self.capacity - self._used_once)
        evicted: list[Chunk] | None = []
        if lacking > 0:
            evicted = self.policy.evict(lacking, set(keys))
            if evicted is None:
                return None
            self._freed += [chunk.number for chunk in evicted]
        places = self._places(len(absent))
        for key, number in zip(absent, places, strict=True):
            self.policy.insert(key, Chunk(number))
        access.inserted.update(absent)
        return Stored(tuple(absent), tuple(places), len(evicted))

    def _count_offers(self, keys: Sequence[int]) -> None:
        offers = self._offers
        known = [key for key in keys if key in offers]
        for key in known:
            offers[key] += 1
            offers.move_to_end(key)
        room = len(offers) - len(known)
        for key in keys:
            if key in offers:
                continue
            if len(offers) >= MOST_OFFERS:
                if not room:
                    continue
                offers.popitem(last=False)
                room -= 1
            offers[key] = 1

    def _is_wanted(self, key: int) -> bool:
        return self._threshold < 2 or self._offers.get(key, 0) >= self._threshold

    def _places(self, count: int) -> list[int]:
        """Places never used, in order, as long as there are any; then the last that were freed."""
        first = self._used_once
        self._used_once = min(first + count, self.capacity)
        places = list(range(first, self._used_once))
        return places + [self._freed.pop() for _ in range(count - len(places))]

    def end_store(self, keys: Iterable[int]) -> None:
        """The chunks were written and can be read."""
        for key in keys:
            self.policy.chunks[key].readers = 0
            self.policy.idle(key)

    def changed(self, by: int, now: int) -> None:
        """Chunks of the user ``by`` can be found from now on."""
        for user, concerns in self.users.items():
            if user != by:
                concerns(now, by)

    def finished(self, request: int) -> None:
        """A request has ended: what it used counts as used now."""
        access = self._accesses.pop(request, None)
        if access is not None:
            keys = sorted(access.keys, key=access.keys.__getitem__)
            self.policy.finished(keys, access.inserted - access.reused, access.reused)

    def _note(self, request: int, placed: Iterable[tuple[int, int]], reused: Collection[int]) -> None:
        access = self._accesses.setdefault(request, _Access())
        for place, key in placed:
            access.keys.setdefault(key, place)
        access.reused.update(key for key in reused if key not in access.inserted)
