"""What a policy sees of its scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.scheduler.vllm import VllmScheduler
    from penstock.spec.options import SchedulerOptions


class PolicyView:
    """A :class:`SchedulerView`: read-only, always of now."""

    __slots__ = ("_scheduler",)

    def __init__(self, scheduler: VllmScheduler) -> None:
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
        return len(self._scheduler.running) - len(self._scheduler.partials)

    @property
    def free_block_ratio(self) -> float:
        """Free KV blocks over all usable ones."""
        return self._scheduler.kv.free / self._scheduler.kv.usable

    def prompt_tokens_left(self, enough: int) -> int:
        """Prompt tokens not scheduled yet, of running and waiting requests; counting stops at ``enough``."""
        left = sum(state.num_tokens - state.num_computed for state in self._scheduler.partials)
        for state in self._scheduler.waiting.states():
            if left >= enough:
                break
            left += state.num_tokens
        return min(left, enough)

    def num_running_in(self, slot: int) -> int:
        """Running requests that belong to a slot."""
        return self._scheduler.running_in.get(slot, 0)
