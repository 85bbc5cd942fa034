"""Stage times as a straight line in tokens and context: the cost model of the vLLM recordings, and what is
fitted to a real run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.cost.step_cost import HopCost, PipelineCost, StepLoad


@dataclass(frozen=True, slots=True)
class LinearStage:
    """``base_ns + per_token_ns * tokens + per_context_ns * context`` for one step on one stage, where
    ``context`` is the sum of tokens computed before. Integers keep the result exact."""

    base_ns: float
    per_token_ns: float
    per_context_ns: float


@dataclass(frozen=True, slots=True)
class LinearStageCost:
    """A :class:`~penstock.cost.step_cost.StageCost` with one :class:`LinearStage` per stage."""

    stages: tuple[LinearStage, ...]

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`; rounded to the nanosecond."""
        tokens = load.prefill_tokens + load.decodes
        context = load.prefill_context + load.decode_context
        return [
            round(stage.base_ns + stage.per_token_ns * tokens + stage.per_context_ns * context)
            for stage in self.stages
        ]

    def notes(self) -> tuple[str, ...]:
        """A straight line holds everywhere: nothing to note."""
        return ()


def linear_hop(latency_ns: int, per_token_ns: float, max_tokens: int) -> HopCost:
    """A link that is a pure latency of ``latency_ns + per_token_ns * tokens`` and never taken."""
    arrival = [round(latency_ns + per_token_ns * tokens) for tokens in range(max_tokens + 1)]
    return HopCost(arrival, [0] * (max_tokens + 1))


def linear_pipeline(
    stages: Sequence[LinearStage], hop: HopCost, max_num_seqs: int, basis: str, token_return_ns: int = 0
) -> PipelineCost:
    """A pipeline of linear stages joined by equal hops; the way back takes ``token_return_ns`` whatever it
    carries, up to ``max_num_seqs`` sampled tokens."""
    return PipelineCost(
        stage=LinearStageCost(tuple(stages)),
        hops=(hop,) * (len(stages) - 1),
        token_return_ns=[token_return_ns] * (max_num_seqs + 1),
        basis=(basis,),
    )
