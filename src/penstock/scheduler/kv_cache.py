"""The KV block pool: how many blocks are free, and which of them still hold something worth hitting.

vLLM keeps a queue of free blocks (``v1/core/block_pool.py: FreeKVCacheBlockQueue``): blocks without a hash are
put back at its front, blocks with one at its end, and new blocks come from the front. Blocks without a hash are
therefore always ahead of all the others, and as nothing tells them apart a counter stands for them.

Two kinds of hashed block can be hit: one whose token ids are known (:class:`CachedBlock`), by any request, and one
of a request without token ids that was preempted (:class:`OwnBlocks`), by that request alone when it resumes.
All other hashed blocks matter only for the order of reuse: a counter in their place in the queue does for them,
and once nothing that can be hit stands before them they are like blocks without a hash.
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


class OwnBlocks:
    """The first ``blocks`` full blocks of one request without token ids, next to each other in the queue, the
    last of them reused first. ``can_be_hit`` while the request waits to resume."""

    __slots__ = ("blocks", "can_be_hit")

    def __init__(self, blocks: int, *, can_be_hit: bool) -> None:
        self.blocks = blocks
        self.can_be_hit = can_be_hit


class BlockKeys:
    """Numbers for what blocks hold: equal content behind equal content, equal number. Pools that share a tier share
    them."""

    __slots__ = ("known", "next")

    def __init__(self) -> None:
        self.known: dict[tuple[int, bytes], int] = {}
        self.next = 1


class KVCache:
    """The pool of one instance: ``num_gpu_blocks`` less the null block. ``keys`` are its own unless given.

    ``free`` counts all free blocks. Prefix caching (``v1/core/kv_cache_manager.py``) can be switched off, and
    then no block has an identity.
    """

    def __init__(
        self, num_gpu_blocks: int, block_size: int, *, prefix_caching: bool, keys: BlockKeys | None = None
    ) -> None:
        self.usable = num_gpu_blocks - 1
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.free: int = self.usable
        # The queue from the first block on that can be hit, next to be reused first, and how many blocks that is.
        self._queue: OrderedDict[CachedBlock | OwnBlocks, None] = OrderedDict()
        self._queued: int = 0
        self._by_key: dict[int, dict[CachedBlock, None]] = {}
        self._keys = keys or BlockKeys()

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` tokens take."""
        return -(-tokens // self.block_size)

    def take(self, blocks: int) -> None:
        """Hand out ``blocks`` blocks; the caller has made sure that as many are free. Cached content is
        given up, the longest unused first, once no other block is left."""
        self.free -= blocks
        if self._queued > self.free:
            self._reuse()

    def _reuse(self) -> None:
        """Give up what stands first in the queue until no more blocks are queued than are free."""
        queue = self._queue
        while self._queued > self.free:
            first = next(iter(queue))
            if isinstance(first, CachedBlock):
                del queue[first]
                self._queued -= 1
                self._forget(first)
            else:
                given = self._give(first)
                first.blocks -= given
                self._queued -= given
                if not first.blocks:
                    del queue[first]

    def _give(self, run: OwnBlocks) -> int:
        """How many of the blocks that stand first in the queue go at once: what cannot be hit is as good as without
        a hash."""
        return min(run.blocks, self._queued - self.free) if run.can_be_hit else run.blocks

    def _forget(self, block: CachedBlock) -> None:
        holders = self._by_key[block.key]
        del holders[block]
        if not holders:
            del self._by_key[block.key]

    def release(self, state: RequestState, computed: int, known: int, *, resumes: bool) -> None:
        """Take back all blocks of a request that has ``computed`` tokens in them, its last block first. The
        blocks that its ``known`` tokens fill are hashed. ``resumes``: it was preempted and will look for them."""
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
        # What stands first and cannot be hit is as good as without a hash, so it need not be kept.
        if self.prefix_caching and (self._queue or resumes):
            full = min(known, computed) // self.block_size
            if full:
                can_be_hit = resumes and not self.caches(state)
                blocks = OwnBlocks(full, can_be_hit=can_be_hit)
                if can_be_hit:
                    state.own_blocks = blocks
                if can_be_hit or self._queue:
                    self._queue[blocks] = None
                    self._queued += full

    def caches(self, state: RequestState) -> bool:
        """Whether this request's blocks can be hit by others: caching is on and its token ids are known."""
        return self.prefix_caching and state.request.input_ids is not None

    def notes_fills(self, state: RequestState) -> bool:
        """Whether the pool wants to know when one of this request's blocks fills up while it decodes."""
        return self.caches(state)

    def find_prefix(self, state: RequestState) -> list[CachedBlock] | OwnBlocks | None:
        """The longest chain of cached blocks from the request's first token, over at most all its tokens but
        one: at least one is always computed. None where there is none."""
        own = state.own_blocks
        if own is not None:
            return own if own.blocks and state.num_tokens > self.block_size else None
        if not self.caches(state):
            return None
        found: list[CachedBlock] = []
        for position in range((state.num_tokens - 1) // self.block_size):
            holders = self._by_key.get(self.key(state, position))
            if holders is None:
                break
            found.append(next(iter(holders)))
        return found or None

    def count_found(self, state: RequestState, found: list[CachedBlock] | OwnBlocks) -> tuple[int, int]:
        """How many blocks were found, and how many of them nobody uses: using those takes them out of the free
        ones."""
        if isinstance(found, OwnBlocks):
            blocks = min(found.blocks, (state.num_tokens - 1) // self.block_size)
            return blocks, blocks
        return len(found), sum(not block.users for block in found)

    def use(self, state: RequestState, found: list[CachedBlock] | OwnBlocks) -> None:
        """Put found blocks at the head of an admitted request."""
        if isinstance(found, OwnBlocks):
            blocks, _ = self.count_found(state, found)
            found.blocks -= blocks
            self._queued -= blocks
            self.free -= blocks
            return
        for block in found:
            if not block.users:
                del self._queue[block]
                self._queued -= 1
                self.free -= 1
            block.users += 1
        state.hashed_blocks = found

    def resumed(self, state: RequestState) -> None:
        """The request runs again, or has ended: what is left of its own blocks is of no use to anybody."""
        own = state.own_blocks
        if own is None:
            return
        state.own_blocks = None
        own.can_be_hit = False
        if not own.blocks:
            self._queue.pop(own, None)

    def register(self, state: RequestState, tokens: int) -> None:
        """The request's first ``tokens`` tokens are scheduled: its full blocks can be hit from now on."""
        if not self.caches(state):
            return
        hashed = state.hashed_blocks
        for position in range(len(hashed), tokens // self.block_size):
            block = CachedBlock(self.key(state, position))
            self._by_key.setdefault(block.key, {})[block] = None
            hashed.append(block)

    def key(self, state: RequestState, position: int) -> int:
        """A number for the content of block ``position`` and all before it; equal content, equal number."""
        keys = state.keys
        names = self._keys
        if state.request.input_ids is None and state.request.output_ids is None:
            lacking = position + 1 - len(keys)
            if lacking > 0:
                keys.extend(range(names.next, names.next + lacking))
                names.next += lacking
            return keys[position]
        while len(keys) <= position:
            content = self._content(state, len(keys))
            chained = (keys[-1] if keys else 0, content)
            key = names.known.get(chained) if content else None
            if key is None:
                key = names.next
                names.next += 1
                if content:
                    names.known[chained] = key
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
