"""What the pipeline asks of the cost side: how long each stage computes, how long each hop takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StageCost(Protocol):
    """Compute time of every stage for one step (one micro-batch), integer nanoseconds.

    A chunk of one new token counts as a decode. Contexts are tokens computed before this step:
    ``prefill_context`` summed over the prefill chunks, ``decode_context`` summed over the decodes,
    ``min_context``/``max_context`` over the decodes (0 where there is none). ``sampled`` is the number of
    sequences for which lm_head and sampler run. Implementations are pure but for counters of lookups
    outside the measured range.
    """

    def stage_ns(
        self,
        prefill_tokens: int,
        prefill_context: int,
        decodes: int,
        decode_context: int,
        min_context: int,
        max_context: int,
        sampled: int,
    ) -> Sequence[int]:
        """Compute time of each stage, first to last; length ``pp_size``."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know: lookups outside the measured range, how often, how far."""
        ...


@dataclass(frozen=True, slots=True)
class HopCost:
    """A link from one stage to the next, tabulated by tokens in the step (index 0 to the step's limit).

    ``arrival_ns[n]``: from leaving to being usable at the receiver (latency + bytes/bandwidth + the
    receiver's all-gathers). ``occupancy_ns[n]``: how long the link is taken (bytes/bandwidth); zeros make
    the link a pure latency. Hops with the same ``shared_link``, of whatever instances, take turns on it.
    """

    arrival_ns: Sequence[int]
    occupancy_ns: Sequence[int]
    shared_link: str | None = None


@dataclass(frozen=True, slots=True)
class PipelineCost:
    """Everything the clocks of one instance need. ``hops`` has ``pp_size - 1`` entries.

    ``token_return_ns[k]`` is the way back of ``k`` sampled tokens from the last stage to the engine.
    ``basis`` says what each cost rests on, one sentence per item, for the summary.
    """

    stage: StageCost
    hops: tuple[HopCost, ...]
    token_return_ns: Sequence[int]
    basis: tuple[str, ...] = ()
