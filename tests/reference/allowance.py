"""What a policy lets into a step, counted down request by request.

A policy names bounds (:class:`~penstock.scheduler.policies.limits.StepLimits`) at the top of every schedule(). They
hold for what is eligible in that call, whatever makes it eligible: with synchronous scheduling a decode whose token
has come back, with async scheduling one whose placeholder may be built upon. What the bounds keep out stays
eligible and is asked for again in the next call. A victim that is taken back out of the step gives back what it used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.scheduler.policies.limits import StepLimits
from penstock.spec.options import SchedulerOptions

if TYPE_CHECKING:
    from .scheduler import ReferenceScheduler, RequestState, ScheduledChunk


class Allowance:
    """The bounds of one step and what is left of them."""

    def __init__(self, limits: StepLimits) -> None:
        self.slot = limits.slot
        self.decodes = limits.decodes
        self.requests = limits.requests
        self.prefill_tokens = limits.prefill_tokens
        self.admissions = limits.admissions
        self._chunk_tokens = limits.chunk_tokens

    def tokens_for(self, state: RequestState, computed: int) -> int:
        """How many tokens of a request may follow ``computed`` ones, 0 if it has to stay out."""
        if self.requests <= 0:
            return 0
        if state.decoding:
            return 1 if self.decodes > 0 and self.slot in (None, state.slot) else 0
        if self._chunk_tokens is None:
            return self.prefill_tokens
        return min(self.prefill_tokens, max(self._chunk_tokens(computed), 1))

    def spend(self, chunk: ScheduledChunk, sign: int = 1) -> None:
        """A request goes into the step; with ``sign`` -1 it is taken back out of it."""
        self.requests -= sign
        if chunk.state.decoding:
            self.decodes -= sign
        else:
            self.prefill_tokens -= sign * chunk.new


class View:
    """What policies may see of the scheduler, counted anew each time it is asked for."""

    def __init__(self, scheduler: ReferenceScheduler) -> None:
        self._scheduler = scheduler

    @property
    def options(self) -> SchedulerOptions:
        """The instance's options."""
        return self._scheduler.options

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        return len(self._scheduler.running)

    @property
    def num_decoding(self) -> int:
        """Those of them whose prompt is wholly scheduled."""
        return sum(state.decoding for state in self._scheduler.running)

    @property
    def free_block_ratio(self) -> float:
        """Free KV blocks over all usable ones."""
        return len(self._scheduler.kv.free) / self._scheduler.usable_blocks

    def prompt_tokens_left(self, enough: int) -> int:
        """Tokens to prefill that are not scheduled yet, of all requests, at most ``enough``."""
        left = sum(
            state.num_tokens - state.computed for state in self._scheduler.running if not state.decoding
        )
        return min(left + sum(state.num_tokens for state in self._scheduler.waiting), enough)

    def num_running_in(self, slot: int) -> int:
        """Running requests that belong to a slot."""
        return sum(state.slot == slot for state in self._scheduler.running)
