"""A cohort: requests that decode in lock-step.

All decodes of one micro-batch advance by exactly one token when its result comes back, together. So nothing is
stored per token: the cohort counts its turns, and a member that stood at ``num_tokens`` when the cohort's turn
was ``turn`` is kept as ``offset = num_tokens - turn``, which never changes. From it follow, for ``size`` members
at any turn, without looking at them:

- the sum of their contexts: ``offset_sum + size * (turn - 1)``;
- the shortest and the longest context: the ends of the sorted ``offsets``;
- who finishes: those in ``finish_at[turn]``;
- how many need a new KV block: ``block_needs[turn % block_size]``;
- when each token came: a slice of ``times``.

A member with nothing in flight has ``num_tokens = offset + turn``, all but the last of them computed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from penstock.scheduler.request_state import RequestState

if TYPE_CHECKING:
    from penstock.scheduler.step import Step


class Cohort:
    """State that all members share. ``step`` is the step that computes them now, or None: they are ready.

    ``next_finish`` is no later than the next turn in ``finish_at``. ``last_order`` bounds the members'
    admission numbers from above. ``last_ns`` is when the latest token came; the members in ``irregular`` had
    theirs at another time (``last_token_ns``), as they joined between two tokens. ``block_fills`` holds the members
    whose blocks are cached, by the turn, modulo the block size, in which one fills up. ``slot`` is the policy's slot of
    all members, None where they have several or none.
    """

    __slots__ = (
        "block_fills",
        "block_needs",
        "block_size",
        "finish_at",
        "irregular",
        "last_ns",
        "last_order",
        "members",
        "next_finish",
        "offset_sum",
        "offsets",
        "size",
        "slot",
        "step",
        "times",
        "turn",
    )

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.turn = 0
        self.times: array[int] = array("q")
        self.last_ns = 0
        self.step: Step | None = None
        self.size = 0
        self.slot: int | None = None
        self.members: dict[RequestState, None] = {}
        self.offset_sum = 0
        self.offsets: list[int] = []
        self.block_needs = [0] * block_size
        self.finish_at: dict[int, list[RequestState]] = {}
        self.next_finish = 0
        self.block_fills: dict[int, dict[RequestState, None]] = {}
        self.irregular: dict[RequestState, None] = {}
        self.last_order = -1

    def join(self, state: RequestState, *, caches: bool, with_token: bool = False) -> None:
        """Take in a request whose tokens are all computed but the last, ``state.num_tokens`` of them.

        ``caches``: its blocks are cached. ``with_token``: the last of ``times`` is when its latest token came.
        """
        state.segment_start = len(self.times) - with_token
        self.count_in(state, state.num_tokens - self.turn, caches=caches)

    def count_in(self, state: RequestState, offset: int, *, caches: bool) -> None:
        """Add a request with ``offset`` to all that the cohort knows of its members."""
        state.cohort = self
        state.offset = offset
        self.size += 1
        self.members[state] = None
        self.offset_sum += offset
        insort(self.offsets, offset)
        self.block_needs[(1 - offset) % self.block_size] += 1
        finish = state.final_tokens - offset
        bucket = self.finish_at.get(finish)
        if finish < self.next_finish:
            self.next_finish = finish
        if bucket is None:
            self.finish_at[finish] = [state]
        else:
            bucket.append(state)
        if caches:
            self.block_fills.setdefault(-offset % self.block_size, {})[state] = None
        if state.order > self.last_order:
            self.last_order = state.order

    def count_out(self, state: RequestState) -> None:
        """Take a member's next token out of the account; in ``finish_at`` and ``block_fills`` it stays."""
        offset = state.offset
        del self.members[state]
        self.size -= 1
        self.offset_sum -= offset
        offsets = self.offsets
        del offsets[bisect_left(offsets, offset)]
        self.block_needs[(1 - offset) % self.block_size] -= 1

    def known_tokens(self, state: RequestState) -> int:
        """A member's tokens without those in flight."""
        return state.offset + self.turn

    def decodes_of(self, step: Step) -> list[tuple[RequestState, int, int]]:
        """(request, 1, computed before) of the members in a step that has been scheduled and is not back."""
        computed = self.turn - 1
        return [(state, 1, state.offset + computed) for state in self.members]

    def filling(self) -> list[tuple[RequestState, int]]:
        """Members for which the step about to be scheduled computes the last token of a block, with their tokens up
        to there, where blocks are cached."""
        turn = self.turn
        return [(state, state.offset + turn) for state in self.block_fills.get(turn % self.block_size, ())]

    def turns_alike(self) -> int:
        """For how many turns nobody finishes."""
        if self.next_finish <= self.turn:
            self.next_finish = min(self.finish_at, default=self.turn)
        return self.next_finish - self.turn - 1

    def leave(self, state: RequestState) -> None:
        """Let a member go; ``state.num_tokens`` and its token times are brought up to date."""
        offset = state.offset
        self.finish_at[state.final_tokens - offset].remove(state)
        self.drop(state)

    def drop(self, state: RequestState) -> None:
        """Let a member go that is in no bucket of ``finish_at`` any more."""
        offset = state.offset
        self.count_out(state)
        if self.block_fills:
            self.block_fills.get(-offset % self.block_size, {}).pop(state, None)
        if not self.size:
            self.last_order = -1
            self.finish_at.clear()
        state.num_tokens = offset + self.turn
        if state.segment_start < len(self.times):
            state.segments.append((self.times, state.segment_start, len(self.times)))
        if state not in self.irregular:
            state.last_token_ns = self.last_ns
        state.cohort = None

    def move(self, state: RequestState, other: Cohort) -> None:
        """Hand a member over to another cohort, between two of its tokens."""
        caches = bool(self.block_fills) and state in self.block_fills.get(-state.offset % self.block_size, {})
        self.leave(state)
        self.irregular.pop(state, None)
        other.join(state, caches=caches)
        other.irregular[state] = None
