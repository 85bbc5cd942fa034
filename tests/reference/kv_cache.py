"""KV blocks with identities, as vLLM's ``core/block_pool.py`` and ``core/kv_cache_manager.py`` keep them.

A block has an id, a count of the requests that use it, and the hash of its content once it is full. Free blocks
stand in a queue; a new block is taken from its front. Nothing here is quick: the free queue is a dict used as an
ordered set.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count


@dataclass(slots=True, eq=False)
class Block:
    """One KV block. ``content`` is the hash of the block's tokens and of all before them; None if not full."""

    number: int
    users: int = 0
    content: int | None = None


class FreeQueue:
    """Free blocks, the first to be reused in front."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks: OrderedDict[int, Block] = OrderedDict((block.number, block) for block in blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def take_front(self) -> Block:
        """The next block to reuse."""
        return self._blocks.popitem(last=False)[1]

    def remove(self, block: Block) -> None:
        """A free block is hit and leaves the queue."""
        del self._blocks[block.number]

    def put_front(self, blocks: Sequence[Block]) -> None:
        """Put blocks before all others, the first of ``blocks`` foremost."""
        for block in reversed(blocks):
            self._blocks[block.number] = block
            self._blocks.move_to_end(block.number, last=False)

    def put_back(self, blocks: Sequence[Block]) -> None:
        """Put blocks behind all others."""
        for block in blocks:
            self._blocks[block.number] = block


class ContentHasher:
    """Numbers for block contents: equal chains of tokens get equal numbers, without collisions."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int | None, tuple[object, ...]], int] = {}
        self._next = count()

    def chain(self, parent: int | None, tokens: tuple[object, ...]) -> int:
        """The number of a full block with ``tokens`` that follows the block with content ``parent``."""
        key = (parent, tokens)
        if key not in self._numbers:
            self._numbers[key] = next(self._next)
        return self._numbers[key]


@dataclass(slots=True)
class HeldBlocks:
    """The blocks of one request; the first ``hashed`` of them carry a hash or were hits."""

    blocks: list[Block] = field(default_factory=list)
    hashed: int = 0


class KVCache:
    """The pool of blocks of one instance and what each request holds of it."""

    def __init__(
        self, num_gpu_blocks: int, block_size: int, *, caching: bool, unhashed_blocks_first: bool = True
    ) -> None:
        self.block_size = block_size
        self.caching = caching
        self._unhashed_blocks_first = unhashed_blocks_first
        # Block 0 is the null block and is never handed out.
        self.free = FreeQueue(Block(number) for number in range(1, num_gpu_blocks))
        self._usable = num_gpu_blocks - 1
        self._held: dict[int, HeldBlocks] = {}
        # Blocks by content, in order of insertion: a lookup returns the first.
        self._by_content: dict[int, dict[int, Block]] = {}

    @property
    def usage(self) -> float:
        """The part of the blocks that is in use, 0 to 1."""
        usable = self._usable
        return 1.0 - len(self.free) / usable if usable else 0.0

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold ``tokens`` tokens."""
        return -(-tokens // self.block_size)

    def find_hits(self, contents: Sequence[int], max_tokens: int) -> list[Block]:
        """The longest chain of cached full blocks from block 0, at most ``max_tokens`` long."""
        if not self.caching:
            return []
        hits: list[Block] = []
        for content in contents[: max_tokens // self.block_size]:
            blocks = self._by_content.get(content)
            if not blocks:
                break
            hits.append(next(iter(blocks.values())))
        return hits

    def blocks_needed(self, request: int, tokens: int, hits: Sequence[Block]) -> int:
        """Free blocks it takes to give ``request`` room for ``tokens``: new ones, and hits that lie free."""
        held = self._held.get(request)
        already = len(held.blocks) if held else 0
        new = max(self.blocks_for(tokens) - already - len(hits), 0)
        return new + sum(hit.users == 0 for hit in hits)

    def allocate(self, request: int, tokens: int, hits: Sequence[Block]) -> None:
        """Take the hits and then new blocks from the front of the free queue. The room must be there."""
        held = self._held.setdefault(request, HeldBlocks())
        for hit in hits:
            if hit.users == 0:
                self.free.remove(hit)
            hit.users += 1
            held.blocks.append(hit)
        held.hashed += len(hits)
        while len(held.blocks) < self.blocks_for(tokens):
            block = self.free.take_front()
            self._forget_content(block)
            block.users = 1
            held.blocks.append(block)

    def hash_full_blocks(self, request: int, contents: Sequence[int], tokens: int) -> None:
        """Make the full blocks of the first ``tokens`` tokens hittable."""
        if not self.caching or request not in self._held:
            return
        held = self._held[request]
        full = tokens // self.block_size
        for position in range(held.hashed, full):
            block = held.blocks[position]
            block.content = contents[position]
            self._by_content.setdefault(block.content, {})[block.number] = block
        held.hashed = max(held.hashed, full)

    def held(self, request: int) -> int:
        """How many blocks a request has."""
        return len(self.blocks_of(request))

    def blocks_of(self, request: int) -> Sequence[Block]:
        """The blocks of a request, in its order."""
        return self._held[request].blocks if request in self._held else ()

    def release(self, request: int) -> None:
        """Give up all blocks of a request, tail first."""
        self.give_back(self.take_from(request))

    def take_from(self, request: int) -> list[Block]:
        """The request has its blocks no more; they are not free either until they are given back."""
        return self._held.pop(request, HeldBlocks()).blocks

    def give_back(self, blocks: Sequence[Block]) -> None:
        """Blocks that a request had, in its order, have one user less. The tail is to be reused first."""
        reuse_first: list[Block] = []
        reuse_last: list[Block] = []
        for block in reversed(blocks):
            block.users -= 1
            if block.users > 0:
                continue
            to_front = self._unhashed_blocks_first and (block.content is None or not self.caching)
            (reuse_first if to_front else reuse_last).append(block)
        self.free.put_front(reuse_first)
        self.free.put_back(reuse_last)

    def _forget_content(self, block: Block) -> None:
        if block.content is None:
            return
        same_content = self._by_content[block.content]
        del same_content[block.number]
        if not same_content:
            del self._by_content[block.content]
        block.content = None
