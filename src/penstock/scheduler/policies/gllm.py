"""gLLM's token throttling (``scheduler.py``): decodes and prompt tokens are spread evenly over the steps."""

from __future__ import annotations

from penstock.scheduler.policies.limits import SchedulerView, StepLimits


class TokenThrottling:
    """Decodes: an equal share, ceil(decoding / pp_size). Prompt tokens: what is waiting over ``iterations``
    steps, at most ``max_prefill`` scaled by the share of KV blocks that is free, at least ``min_prefill``.

    Wins where prompts come in bursts: their tokens are spread over many steps, so that the micro-batches stay
    alike and the bubbles between them small. Costs TTFT under light load, where a whole chunk would have fitted.
    """

    def __init__(
        self, pp_size: int, *, iterations: int = 8, min_prefill: int = 32, max_prefill: int | None = None
    ) -> None:
        self.pp_size = pp_size
        self.iterations = iterations
        self.min_prefill = min_prefill
        self.max_prefill = max_prefill

    def limits(self, view: SchedulerView) -> StepLimits:
        """See :class:`Policy`."""
        most = self.max_prefill or view.options.max_num_batched_tokens
        waiting = view.prompt_tokens_left(most * self.iterations)
        share = min(-(-waiting // self.iterations), int(most * view.free_block_ratio))
        return StepLimits(
            decodes=max(-(-view.num_decoding // self.pp_size), 1),
            prefill_tokens=max(share, self.min_prefill),
        )
