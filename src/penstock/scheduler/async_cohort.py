"""A cohort whose members are scheduled again before their latest token is known.

Two counts take the place of one: ``turn`` of the steps that were scheduled for it, ``returned`` of those whose
results are back. A member's tokens, those in flight included, are ``offset + turn``; known of them are
``offset + returned``. At most one step is in flight when the next is scheduled, so at most two are afterwards.

Which turn is a member's last is known when that turn is scheduled: from then on the member is ``leaving``, in no
sum any more, until the result is back.
"""

from __future__ import annotations

from collections import deque

from penstock.scheduler.cohort import Cohort
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step


class AsyncCohort(Cohort):
    """``steps`` are those in flight, oldest first.

    A member's first turn here is ``segment_start + 1``. Until that is back, its fields say how it stands: it may have
    been moved here with a token on its way in another cohort's step, which brings it to the member by itself.
    ``joining`` are such members whose first turn is the next one.
    """

    __slots__ = ("joining", "leaving", "returned", "steps")

    def __init__(self, block_size: int) -> None:
        super().__init__(block_size)
        self.returned = 0
        self.steps: deque[Step] = deque()
        self.joining: dict[RequestState, None] = {}
        self.leaving: dict[RequestState, None] = {}

    def admit(self, state: RequestState, *, caches: bool) -> None:
        """Take in a request whose first token the turn just scheduled computes."""
        state.segment_start = self.turn - 1
        state.hashed_tokens = state.num_tokens
        self.count_in(state, state.num_tokens + 1 - self.turn, caches=caches)
        if state.num_tokens + 1 == state.final_tokens:
            self._let_leave(state)

    def take_over(self, state: RequestState, *, caches: bool) -> None:
        """Take in a decode of another cohort that has been :meth:`detached <detach>` from it."""
        state.segment_start = self.turn
        self.count_in(state, state.num_tokens + state.placeholders - self.turn, caches=caches)
        self.joining[state] = None

    def send(self, step: Step) -> None:
        """``step`` computes the next token of all members."""
        if self.steps and self.size > len(self.joining):
            step.wait_for(self.steps[-1])
        if self.joining:
            for state in self.joining:
                previous = state.latest_step
                if state.placeholders and previous is not None:
                    step.wait_for(previous)
                state.hashed_tokens = state.num_tokens
            step.joining, self.joining = self.joining, step.joining
        self.turn = turn = self.turn + 1
        step.turn = turn
        step.known_turn = self.returned
        self.steps.append(step)
        last = self.finish_at.get(turn)
        if last is not None:
            for state in last:
                self._let_leave(state)

    def _let_leave(self, state: RequestState) -> None:
        self.count_out(state)
        self.leaving[state] = None
        if not self.size:
            self.last_order = -1

    def ended(self, turn: int) -> list[RequestState]:
        """The members whose last token came with ``turn``, which is back."""
        done = self.finish_at.pop(turn)
        for state in done:
            del self.leaving[state]
            if self.block_fills:
                self.block_fills.get(-state.offset % self.block_size, {}).pop(state, None)
            state.num_tokens = state.final_tokens
            state.num_computed = state.final_tokens - 1
            state.placeholders = 0
            state.last_token_ns = self.last_ns
            if state.segment_start < len(self.times):
                state.segments.append((self.times, state.segment_start, len(self.times)))
            state.cohort = None
        return done

    def known_tokens(self, state: RequestState) -> int:
        """See :class:`~penstock.scheduler.cohort.Cohort`."""
        return state.num_tokens if self.returned <= state.segment_start else state.offset + self.returned

    def decodes_of(self, step: Step) -> list[tuple[RequestState, int, int]]:
        """See :class:`~penstock.scheduler.cohort.Cohort`."""
        turn = step.turn
        first_tokens = set(step.sampling)
        return [
            (state, 1, state.offset + turn - 2)
            for state in (*self.members, *self.leaving)
            if state.segment_start < turn <= state.final_tokens - state.offset and state not in first_tokens
        ]

    def filling(self) -> list[tuple[RequestState, int]]:
        """Members whose blocks the next turn may find full, with their known tokens."""
        known = self.returned
        found = [
            (state, state.offset + known)
            for state in self.block_fills.get(known % self.block_size, ())
            if state not in self.leaving and state not in self.joining
        ]
        found += [(state, state.num_tokens) for state in self.joining]
        return found

    def filled(self, turn: int) -> list[tuple[RequestState, int]]:
        """Members for which the result of ``turn`` says what a full block holds, with the tokens up to there."""
        return [
            (state, state.offset + turn - 1)
            for state in self.block_fills.get((turn - 1) % self.block_size, ())
            if state.segment_start < turn
        ]

    def is_in_flight(self, state: RequestState) -> bool:
        """Whether a token of a member is on its way."""
        if state in self.leaving:
            return True
        return state.offset + self.turn > self.known_tokens(state)

    def detach(self, state: RequestState, *, delivers: bool) -> bool:
        """Let a member go, its fields brought up to date; returns whether its blocks are cached.

        With ``delivers`` the steps in flight bring its tokens all the same, each by itself.
        """
        offset, first = state.offset, state.segment_start + 1
        is_leaving = state in self.leaving
        last = state.final_tokens - offset if is_leaving else self.turn
        known = self.known_tokens(state)
        if self.returned >= first:
            state.hashed_tokens = known - 1
            state.last_token_ns = self.last_ns
            if first <= len(self.times):
                state.segments.append((self.times, first - 1, len(self.times)))
        state.num_tokens = known
        state.placeholders = offset + last - known
        state.num_computed = offset + last - 1
        for step in self.steps:
            turn = step.turn
            if not first <= turn <= last:
                continue
            if turn > first or state in step.joining:
                step.members -= 1
                step.joining.pop(state, None)
            else:
                step.sampling.remove(state)
            if self.returned >= first:
                state.hashed_tokens = max(state.hashed_tokens, offset + step.known_turn)
            elif turn > first:
                state.hashed_tokens = known
            state.latest_step = step
            state.latest_number = step.number
            if delivers:
                step.apart.append(state)
        self.finish_at[state.final_tokens - offset].remove(state)
        fills = self.block_fills.get(-offset % self.block_size, {})
        caches = fills.pop(state, state) is None
        self.joining.pop(state, None)
        if is_leaving:
            del self.leaving[state]
        else:
            self.count_out(state)
            if not self.size:
                self.last_order = -1
        state.cohort = None
        return caches
