"""The KV block pool: how many blocks are free, and which of them still hold something worth hitting.

vLLM keeps a queue of free blocks (``v1/core/block_pool.py: FreeKVCacheBlockQueue``): blocks without a hash are
put back at its front, blocks with one at its end, and new blocks come from the front. Blocks without a hash are
therefore always ahead of all the others, and as nothing tells them apart a counter stands for them. The hashed
blocks of a request whose token ids are unknown can never be hit, so a counter in their place in the queue does for
all of them. Only blocks that can be hit have an identity here.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from penstock.scheduler.request_state import RequestState


class CachedBlock:
    """A full block whose content is known: ``key`` stands for it and all that precedes it."""

    __slots__ = ("key", "users")

    def __init__(self, key: int) -> None:
        self.key = key
        self.users = 1


class AnonymousRun:
    """Full blocks of one request whose content nothing will ever equal, next to each other in the queue."""

    __slots__ = ("blocks",)

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks


class KVCache:
    """The pool of one instance: ``num_gpu_blocks`` less the null block.

    ``free`` counts all free blocks. Prefix caching (``v1/core/kv_cache_manager.py``) can be switched off, and
    then no block has an identity.
    """

    def __init__(self, num_gpu_blocks: int, block_size: int, *, prefix_caching: bool) -> None:
        self.usable = num_gpu_blocks - 1
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.free = self.usable
        # The queue's hashed part, next to be reused first, and how many blocks that is.
        self._queue: OrderedDict[CachedBlock | AnonymousRun, None] = OrderedDict()
        self._queued = 0
        # The run that stands before all others in the queue, where one does.
        self._head = AnonymousRun(0)
        self._by_key: dict[int, dict[CachedBlock, None]] = {}
        self._key_of: dict[tuple[int, bytes], int] = {}
        self._next_key = 1

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens take."""
        return -(-tokens // self.block_size)

    def take(self, blocks: int) -> None:
        """Hand out ``blocks`` blocks; the caller has made sure that as many are free. Cached content is
        given up, the longest unused first, once no other block is left."""
        self.free -= blocks
        excess = self._queued - self.free
        if excess <= 0:
            return
        if self._head.blocks >= excess:
            self._head.blocks -= excess
            self._queued -= excess
            return
        while self._queued > self.free:
            self._evict(self._queued - self.free)

    def _evict(self, excess: int) -> None:
        """Give up what stands first in the queue, ``excess`` blocks at most."""
        head = self._head
        if head.blocks:
            given = min(head.blocks, excess)
            head.blocks -= given
            self._queued -= given
            return
        first, _ = self._queue.popitem(last=False)
        if isinstance(first, AnonymousRun):
            self._head = first
            return
        self._queued -= 1
        holders = self._by_key[first.key]
        del holders[first]
        if not holders:
            del self._by_key[first.key]

    def release(self, state: RequestState, computed: int, known: int) -> None:
        """Take back all blocks of a request that has ``computed`` tokens in them, its last block first. The
        blocks that its ``known`` tokens fill are hashed."""
        held = self.blocks_for(computed)
        hashed = state.hashed_blocks
        if hashed:
            self.free += held - len(hashed)
            for block in reversed(hashed):
                block.users -= 1
                if not block.users:
                    self._queue[block] = None
                    self._queued += 1
                    self.free += 1
            state.hashed_blocks = []
            return
        self.free += held
        if self.prefix_caching:
            full = min(known, computed) // self.block_size
            if full:
                self._queue[AnonymousRun(full)] = None
                self._queued += full

    def caches(self, state: RequestState) -> bool:
        """Whether this request's blocks are cached: caching is on and its token ids are known."""
        return self.prefix_caching and state.request.input_ids is not None

    def find_prefix(self, state: RequestState) -> list[CachedBlock]:
        """The longest chain of cached blocks from the request's first token, over at most all its tokens but
        one: at least one is always computed."""
        if not self.caches(state):
            return []
        found: list[CachedBlock] = []
        for position in range((state.num_tokens - 1) // self.block_size):
            holders = self._by_key.get(self._key(state, position))
            if holders is None:
                break
            found.append(next(iter(holders)))
        return found

    def count_unused(self, blocks: list[CachedBlock]) -> int:
        """How many of these have no user: using them takes them out of the free blocks."""
        return sum(not block.users for block in blocks)

    def use(self, state: RequestState, blocks: list[CachedBlock]) -> None:
        """Put cached blocks at the head of an admitted request."""
        for block in blocks:
            if not block.users:
                del self._queue[block]
                self._queued -= 1
                self.free -= 1
            block.users += 1
        state.hashed_blocks = blocks

    def register(self, state: RequestState, tokens: int) -> None:
        """The request's first ``tokens`` tokens are scheduled: its full blocks can be hit from now on."""
        if not self.caches(state):
            return
        hashed = state.hashed_blocks
        for position in range(len(hashed), tokens // self.block_size):
            block = CachedBlock(self._key(state, position))
            self._by_key.setdefault(block.key, {})[block] = None
            hashed.append(block)

    def _key(self, state: RequestState, position: int) -> int:
        """A number for the content of block ``position`` and all before it; equal content, equal number."""
        keys = state.keys
        while len(keys) <= position:
            content = self._content(state, len(keys))
            chained = (keys[-1] if keys else 0, content)
            key = self._key_of.get(chained) if content else None
            if key is None:
                key = self._next_key
                self._next_key += 1
                if content:
                    self._key_of[chained] = key
            keys.append(key)
        return keys[position]

    def _content(self, state: RequestState, position: int) -> bytes:
        """The block's token ids; empty where the workload does not say what was generated, so that the block
        equals no other."""
        request = state.request
        start, stop = position * self.block_size, (position + 1) * self.block_size
        prompt = request.input_ids or array("q")
        known = request.input_tokens
        if stop <= known:
            return prompt[start:stop].tobytes()
        if request.output_ids is None:
            return b""
        outputs = request.output_ids[max(start - known, 0) : stop - known]
        return prompt[start:known].tobytes() + outputs.tobytes()
