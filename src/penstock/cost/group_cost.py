"""What a group of replicas in lock-step asks of the cost side: one forward of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from penstock.cost.step_cost import StepLoad


class GroupCost(Protocol):
    """Compute time of forwards that data-parallel ranks of a mixture of experts run together.

    Every MoE layer exchanges tokens over all ranks of the group, so they enter and leave it together, and a
    forward takes all of them the same time on a stage. Ranks of a group are alike: model, degrees, stages.
    """

    def forward_ns(self, loads: Sequence[StepLoad | None]) -> Sequence[int]:
        """Time of one forward on each stage, first to last; length ``pp_size``.

        ``loads`` has one entry per rank, by rank; None is a dummy batch (one decode token without KV, not
        sampled, vLLM ``v1/worker/gpu_worker.py: execute_dummy_batch``). At least one is not None.
        """
        ...

    def padded_tokens(self, loads: Sequence[StepLoad | None]) -> int:
        """Tokens that every rank runs in this forward, its own padded to the largest rank's CUDA graph; 0 where the
        forward runs without graphs and every rank keeps its own number."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know, as :meth:`penstock.cost.step_cost.StageCost.notes`."""
        ...
