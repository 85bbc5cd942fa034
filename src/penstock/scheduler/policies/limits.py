"""What a policy is told and what it answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.scheduler.request_state import RequestState
    from penstock.spec.options import SchedulerOptions

UNLIMITED = sys.maxsize


class SchedulerView(Protocol):
    """What a policy may know when a step is about to be scheduled."""

    @property
    def options(self) -> SchedulerOptions:
        """The instance's options."""
        ...

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        ...

    @property
    def num_decoding(self) -> int:
        """Those of them whose prompt is wholly scheduled."""
        ...

    @property
    def free_block_ratio(self) -> float:
        """Free KV blocks over all usable ones."""
        ...

    def prompt_tokens_left(self, enough: int) -> int:
        """Prompt tokens not scheduled yet, of running and waiting requests; counting stops at ``enough``."""
        ...

    def num_running_in(self, slot: int) -> int:
        """Running requests that belong to a slot."""
        ...


@dataclass(slots=True)
class StepLimits:
    """Upper bounds of one step, counted down as it fills. The scheduler's own limits hold besides.

    ``slot`` restricts the step to decodes of that slot; a prompt joins the slot of its latest chunk, so that chunks
    of one prompt follow each other through the stages. ``chunk_tokens`` gives the largest prefill chunk after so many
    tokens of context.
    """

    decodes: int = UNLIMITED
    requests: int = UNLIMITED
    prefill_tokens: int = UNLIMITED
    admissions: int = UNLIMITED
    slot: int | None = None
    chunk_tokens: Callable[[int], int] | None = None

    def allows_decode(self, state: RequestState) -> bool:
        """Whether another decode, this one, may go into the step."""
        return self.decodes > 0 and self.requests > 0 and (self.slot is None or state.slot == self.slot)

    def allowed_decodes(self, decodes: int, slot: int | None) -> int:
        """How many of so many decodes of one slot may go into the step, the earliest admitted first; -1 where that
        depends on each of them."""
        if type(self) is not StepLimits or (self.slot is not None and slot != self.slot):
            return -1
        return max(min(decodes, self.decodes, self.requests), 0)

    def spend_decodes(self, decodes: int) -> None:
        """So many decodes have gone into the step."""
        self.decodes -= decodes
        self.requests -= decodes

    def allowed_chunk(self, state: RequestState, computed: int) -> int:
        """The most prompt tokens of this request that may go into the step after ``computed`` ones."""
        if self.requests <= 0:
            return 0
        if self.chunk_tokens is None:
            return self.prefill_tokens
        return min(self.prefill_tokens, max(self.chunk_tokens(computed), 1))

    def spend_decode(self) -> None:
        """A decode has gone into the step."""
        self.decodes -= 1
        self.requests -= 1

    def spend_chunk(self, tokens: int) -> None:
        """A prefill chunk has gone into the step."""
        self.prefill_tokens -= tokens
        self.requests -= 1

    def give_back_decode(self) -> None:
        """A decode was taken out of the step again."""
        self.decodes += 1
        self.requests += 1

    def give_back_chunk(self, tokens: int) -> None:
        """A prefill chunk was taken out of the step again."""
        self.prefill_tokens += tokens
        self.requests += 1


class Policy(Protocol):
    """One method; it may keep state between calls."""

    def limits(self, view: SchedulerView) -> StepLimits:
        """What the next step may hold."""
        ...
