"""Caps on how many requests one micro-batch takes, so that a burst does not end up in one of them."""

from __future__ import annotations

from penstock.scheduler.policies.limits import SchedulerView, StepLimits


class DecodeCap:
    """At most ``cap`` decodes a step, by default ceil(max_num_seqs / pp_size); prefills are free (vllm#57433).

    Wins where a burst has left uneven cohorts: decode time grows with the batch, and the fullest micro-batch
    sets the pace. Costs where batches below the cap would have run anyway.
    """

    def __init__(self, pp_size: int, *, cap: int | None = None) -> None:
        self.pp_size = pp_size
        self.cap = cap

    def limits(self, view: SchedulerView) -> StepLimits:
        """See :class:`Policy`."""
        return StepLimits(decodes=self.cap or -(-view.options.max_num_seqs // self.pp_size))


class RequestCap:
    """At most ``cap`` requests of any kind a step, by default ceil(max_num_seqs / pp_size).

    Evens out the micro-batches as :class:`DecodeCap` does, but holds prefills back as well, which is why it
    can lose where the other wins.
    """

    def __init__(self, pp_size: int, *, cap: int | None = None) -> None:
        self.pp_size = pp_size
        self.cap = cap

    def limits(self, view: SchedulerView) -> StepLimits:
        """See :class:`Policy`."""
        return StepLimits(requests=self.cap or -(-view.options.max_num_seqs // self.pp_size))
