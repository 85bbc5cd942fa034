"""What the pipeline asks of the cost side: how long each stage computes, how long each hop takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StepLoad(Protocol):
    """What one step (one micro-batch) holds, as far as its cost depends on it. Nobody who is given one changes it.

    A chunk of one new token counts as a decode. Contexts are tokens computed before this step:
    ``prefill_context`` summed over the prefill chunks, ``decode_context`` summed over the decodes,
    ``min_context``/``max_context`` over the decodes (0 where there is none). ``sampled`` is the number of
    sequences for which lm_head and sampler run.
    """

    @property
    def prefill_tokens(self) -> int:
        """New tokens of all prefill chunks."""
        ...

    @property
    def prefill_context(self) -> int:
        """Summed history of the prefill chunks."""
        ...

    @property
    def decodes(self) -> int:
        """Sequences with one new token."""
        ...

    @property
    def decode_context(self) -> int:
        """Summed context of the decodes."""
        ...

    @property
    def min_context(self) -> int:
        """Shortest context of a decode."""
        ...

    @property
    def max_context(self) -> int:
        """Longest context of a decode."""
        ...

    @property
    def sampled(self) -> int:
        """Sequences that get a token."""
        ...


@dataclass(frozen=True, slots=True)
class StepShape:
    """A :class:`StepLoad` that is nothing but its numbers, for questions outside a run."""

    prefill_tokens: int = 0
    prefill_context: int = 0
    decodes: int = 0
    decode_context: int = 0
    min_context: int = 0
    max_context: int = 0
    sampled: int = 0

    @classmethod
    def of_decodes(cls, decodes: int, context: int) -> StepShape:
        """``decodes`` sequences of ``context`` tokens each, all sampled."""
        return cls(0, 0, decodes, decodes * context, context, context, decodes)


class StageCost(Protocol):
    """Compute time of every stage for one step, integer nanoseconds.

    Implementations are pure but for counters of lookups outside the measured range.
    """

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
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
