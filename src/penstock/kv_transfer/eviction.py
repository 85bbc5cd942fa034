"""Who leaves the CPU tier: vLLM's ``v1/kv_offload/cpu/policies``."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Protocol


class Chunk:
    """A chunk in the tier, in place ``number``. ``readers`` is -1 while it is being written."""

    __slots__ = ("number", "readers")

    def __init__(self, number: int) -> None:
        self.number = number
        self.readers = -1


class EvictionPolicy(Protocol):
    """Keeps the ``chunks`` by key. Only chunks that nobody reads or writes are given up."""

    @property
    def chunks(self) -> dict[int, Chunk]:
        """By key."""
        ...

    def insert(self, key: int, chunk: Chunk) -> None:
        """A chunk is about to be written."""
        ...

    def idle(self, key: int) -> None:
        """Nobody reads or writes a chunk any more."""
        ...

    def evict(self, count: int, protected: Collection[int]) -> list[Chunk] | None:
        """Give up ``count`` chunks, none of ``protected``; None, and nothing changes, if there are not as many."""
        ...

    def missed(self, keys: Sequence[int]) -> None:
        """Chunks that a request offers are not here."""
        ...

    def finished(self, keys: Sequence[int], inserted: Collection[int], reused: Collection[int]) -> None:
        """A request has ended that stored, offered or loaded ``keys``, its first in front: some it ``inserted``
        alone, others it found and ``reused``."""
        ...


class LRU:
    """The longest unused first (``lru.py``). A chunk is ranked when it is inserted, and anew when a request ends that
    used it, tail first: heads of prefixes live longest."""

    def __init__(self, capacity: int) -> None:
        del capacity
        self.chunks: OrderedDict[int, Chunk] = OrderedDict()

    def insert(self, key: int, chunk: Chunk) -> None:
        """See :class:`EvictionPolicy`."""
        self.chunks[key] = chunk

    def idle(self, key: int) -> None:
        """Nothing to note."""

    def evict(self, count: int, protected: Collection[int]) -> list[Chunk] | None:
        """See :class:`EvictionPolicy`."""
        idle = (key for key, chunk in self.chunks.items() if not chunk.readers and key not in protected)
        chosen = list(islice(idle, count))
        return [self.chunks.pop(key) for key in chosen] if len(chosen) == count else None

    def missed(self, keys: Sequence[int]) -> None:
        """Nothing to learn."""

    def finished(self, keys: Sequence[int], inserted: Collection[int], reused: Collection[int]) -> None:
        """See :class:`EvictionPolicy`."""
        chunks = self.chunks
        for key in reversed(keys):
            if key in chunks:
                chunks.move_to_end(key)


class ARC:
    """Adaptive replacement (``arc.py``): T1 holds chunks used once, T2 those used by several requests, B1 and B2 are
    the ghosts of what left them. A ghost that is missed shows which of the two is too short."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.chunks: dict[int, Chunk] = {}
        self.t1: OrderedDict[int, None] = OrderedDict()
        self.t2: OrderedDict[int, None] = OrderedDict()
        self.b1: OrderedDict[int, None] = OrderedDict()
        self.b2: OrderedDict[int, None] = OrderedDict()
        self.target: float = 0.0

    def insert(self, key: int, chunk: Chunk) -> None:
        """See :class:`EvictionPolicy`."""
        self.chunks[key] = chunk
        self.t1[key] = None
        self.b1.pop(key, None)
        self.b2.pop(key, None)

    def idle(self, key: int) -> None:
        """Nothing to note."""

    def evict(self, count: int, protected: Collection[int]) -> list[Chunk] | None:
        """See :class:`EvictionPolicy`."""
        recent, frequent = self._candidates(self.t1, protected), self._candidates(self.t2, protected)
        size = len(self.t1)
        chosen: list[tuple[int, bool]] = []
        for _ in range(count):
            key = next(recent, None) if size >= int(self.target) else None
            from_t1 = key is not None
            if key is None:
                key = next(frequent, None)
            if key is None:
                key, from_t1 = next(recent, None), True
            if key is None:
                return None
            size -= from_t1
            chosen.append((key, from_t1))
        for key, from_t1 in chosen:
            del (self.t1 if from_t1 else self.t2)[key]
            (self.b1 if from_t1 else self.b2)[key] = None
        for ghosts in (self.b1, self.b2):
            while len(ghosts) > self.capacity:
                ghosts.popitem(last=False)
        return [self.chunks.pop(key) for key, _ in chosen]

    def _candidates(self, keys: OrderedDict[int, None], protected: Collection[int]) -> Iterator[int]:
        return (key for key in keys if not self.chunks[key].readers and key not in protected)

    def missed(self, keys: Sequence[int]) -> None:
        """See :class:`EvictionPolicy`."""
        for key in reversed(keys):
            if key in self.b1:
                self.target = min(self.target + max(1, len(self.b2) / len(self.b1)), self.capacity)
                self.b1.move_to_end(key)
            elif key in self.b2:
                self.target = max(self.target - max(1, len(self.b1) / len(self.b2)), 0)
                self.b2.move_to_end(key)

    def finished(self, keys: Sequence[int], inserted: Collection[int], reused: Collection[int]) -> None:
        """See :class:`EvictionPolicy`."""
        for key in reversed(keys):
            if key in reused and key in self.t1:
                del self.t1[key]
                self.t2[key] = None
            elif key in self.t2 and (key in reused or key in inserted):
                self.t2.move_to_end(key)
            elif key in self.t1 and key in inserted:
                self.t1.move_to_end(key)


POLICIES: dict[str, type[LRU] | type[ARC]] = {"lru": LRU, "arc": ARC}
"""By the name that options give."""
