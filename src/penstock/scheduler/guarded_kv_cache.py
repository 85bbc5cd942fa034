"""A KV block pool that says when blocks are handed out that somebody still copies from.

The pool counts blocks; only where a copy out of free blocks is pending does it matter which block comes next. Guards
stand for such blocks in the order of reuse, and tell of it when they come up.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.scheduler.kv_cache import BlockKeys, CachedBlock, KVCache, OwnBlocks
from penstock.scheduler.request_state import RequestState


class Guard:
    """Stands for blocks whose content is still to be copied. ``is_disturbed`` once one of them was handed out, to be
    written or to be shared. ``owner`` is whatever the guard's maker wants to find again; ``blocks`` are those that can
    be hit."""

    __slots__ = ("blocks", "is_disturbed", "owner")

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        self.is_disturbed = False
        self.blocks: list[CachedBlock] = []


class _GuardedRun(OwnBlocks):
    """Full blocks of one request without token ids, some of them guarded, by position."""

    __slots__ = ("guards",)

    def __init__(self, blocks: int, *, can_be_hit: bool, guards: Mapping[int, Guard]) -> None:
        super().__init__(blocks, can_be_hit=can_be_hit)
        self.guards = guards


class GuardedKVCache(KVCache):
    """``disturbed`` are the guards that have come up since somebody emptied the list. ``notes_all_fills``: also of
    requests without token ids the pool is told when a block fills up."""

    def __init__(
        self,
        num_gpu_blocks: int,
        block_size: int,
        *,
        prefix_caching: bool,
        notes_all_fills: bool,
        keys: BlockKeys | None = None,
    ) -> None:
        super().__init__(num_gpu_blocks, block_size, prefix_caching=prefix_caching, keys=keys)
        self.disturbed: list[Guard] = []
        self._notes_all_fills = notes_all_fills
        self._guards_of: dict[RequestState, Mapping[int, Guard]] = {}
        # Requests with a common prefix may copy from one block.
        self._watching: dict[CachedBlock, list[Guard]] = {}
        # Without prefix caching: the free blocks on top of the pile, [how many, their guard], as far down as a guard.
        self._pile: list[tuple[int, Guard | None]] = []

    def notes_fills(self, state: RequestState) -> bool:
        """See :class:`~penstock.scheduler.kv_cache.KVCache`."""
        return self._notes_all_fills or self.caches(state)

    def guard(self, state: RequestState, guards: Mapping[int, Guard]) -> None:
        """Watch blocks of a request that is about to give them up, by position."""
        if not self.caches(state):
            self._guards_of[state] = guards
            return
        for position, guard in guards.items():
            if position < len(state.hashed_blocks):
                block = state.hashed_blocks[position]
                self._watching.setdefault(block, []).append(guard)
                guard.blocks.append(block)

    def unguard(self, guard: Guard) -> None:
        """The copy is done, or will not be made."""
        guard.is_disturbed = True  # nobody needs to hear of it any more
        for block in guard.blocks:
            watching = self._watching.get(block)
            if watching is not None and guard in watching:
                watching.remove(guard)
                if not watching:
                    del self._watching[block]
        guard.blocks.clear()
        if self._pile and all(other is None or other.is_disturbed for _, other in self._pile):
            self._pile.clear()

    @property
    def has_guards(self) -> bool:
        """Whether blocks are watched by themselves, not as part of a run of free ones."""
        return bool(self._watching)

    def come_up(self, state: RequestState) -> None:
        """A request is run with blocks that were given to it in part earlier, while somebody else ran with them: those
        are handed out now."""
        for block in state.hashed_blocks:
            for guard in self._watching.get(block, ()):
                self._disturb(guard)

    def _disturb(self, guard: Guard) -> None:
        if not guard.is_disturbed:
            guard.is_disturbed = True
            self.disturbed.append(guard)

    def take(self, blocks: int) -> None:
        """See :class:`~penstock.scheduler.kv_cache.KVCache`."""
        super().take(blocks)
        pile = self._pile
        while pile and blocks:
            count, guard = pile.pop()
            if guard is not None:
                self._disturb(guard)
            if count > blocks:
                pile.append((count - blocks, guard))
            blocks -= min(count, blocks)

    def release(self, state: RequestState, computed: int, known: int, *, resumes: bool) -> None:
        """See :class:`~penstock.scheduler.kv_cache.KVCache`."""
        guards = self._guards_of.pop(state, None)
        if self.prefix_caching:
            if guards and not state.hashed_blocks:
                self._queue_run(state, computed, known, guards)
            else:
                super().release(state, computed, known, resumes=resumes)
            return
        super().release(state, computed, known, resumes=resumes)
        if guards or self._pile:
            guards = guards or {}
            self._pile += [(1, guards.get(position)) for position in range(self.blocks_for(computed))]

    def _queue_run(self, state: RequestState, computed: int, known: int, guards: Mapping[int, Guard]) -> None:
        full = min(known, computed) // self.block_size
        self.free += self.blocks_for(computed)
        if full:
            self._queue[_GuardedRun(full, can_be_hit=False, guards=guards)] = None
            self._queued += full

    def _give(self, run: OwnBlocks) -> int:
        """See :class:`~penstock.scheduler.kv_cache.KVCache`."""
        surplus: int = self._queued - self.free
        if not isinstance(run, _GuardedRun):
            return super()._give(run)
        left = run.blocks
        given = min(left, surplus)
        for position in range(left - given, left):
            guard = run.guards.get(position)
            if guard is not None:
                self._disturb(guard)
        return given

    def _forget(self, block: CachedBlock) -> None:
        super()._forget(block)
        for guard in self._watching.pop(block, ()):
            self._disturb(guard)

    def use(self, state: RequestState, found: list[CachedBlock] | OwnBlocks) -> None:
        """See :class:`~penstock.scheduler.kv_cache.KVCache`."""
        super().use(state, found)
        if self._watching and not isinstance(found, OwnBlocks):
            for block in found:
                for guard in self._watching.get(block, ()):
                    self._disturb(guard)
