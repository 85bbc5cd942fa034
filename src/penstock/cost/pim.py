"""Stages whose decodes attend in memory (PIM) while the rest runs on their NPUs, and two halves of a step in turns.

Attention of a decode is linear in its context (:class:`penstock.spec.pim.PimSpec`) and dealt in as many pieces as there
are KV heads to the channels that have least to do: with n pieces on c channels a layer's takes the longest piece, and
no less than ceil(n / c) pieces of the mean. Prompts attend on the NPU after all pieces; the next row waits for both.

With two halves each passes through all layers by itself, one half's attention in memory beside the other's rows on the
NPU. A layer of both takes the longest of: the NPU's rows of both, and each half's rows and attention. All weights are
read twice.

LLMServingSim deals sequences one by one, with their prompts in the place of their contexts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.cost.stage import TabulatedStageCost
from penstock.cost.step_cost import StepLoad, StepShape
from penstock.spec.pim import PimSpec
from penstock.units import Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PimLayer:
    """What a layer's attention is to the PIM: heads of the whole model, bytes that a piece moves."""

    pim: PimSpec
    heads: int
    kv_heads: int
    head_dim: int
    piece_bytes: int

    def piece_ns(self, context: float) -> float:
        """One piece of a sequence."""
        pim = self.pim
        attention = pim.attention_ns(
            round(context), heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim
        )
        return int(attention) + int(pim.latency_ns) + int(self.piece_bytes / int(pim.bytes_per_ns))

    def layer_ns(self, load: StepLoad) -> int:
        """All decodes of a step."""
        if not load.decodes:
            return 0
        rounds = math.ceil(load.decodes * self.pim.split(self.kv_heads) / self.pim.channels)
        mean = self.piece_ns(load.decode_context / load.decodes)
        return round(max(self.piece_ns(load.max_context), rounds * mean))

    def busy_ns(self, decodes: Int64Array, context: Int64Array) -> npt.NDArray[np.float64]:
        """Time of all pieces of ``decodes`` sequences of ``context`` tokens in sum, over all channels."""
        one = self.pim.attention_ns(0, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim)
        slope = (
            self.pim.attention_ns(1, heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim) - one
        )
        pieces = self.pim.split(self.kv_heads)
        return pieces * (decodes * (one + int(self.pim.latency_ns)) + slope * context)


class PimStageCost:
    """``StageCost`` with ``layers[s]`` layers on stage s; ``pieces`` tells the time of the embedding, a layer and the
    head as if they were stages; ``ends`` says whether the first stage has the embedding and the last the head.
    ``interleaves``: two halves in turns, on one stage."""

    def __init__(
        self,
        pieces: TabulatedStageCost,
        layer: PimLayer,
        layers: Sequence[int],
        *,
        ends: tuple[bool, bool],
        interleaves: bool,
    ) -> None:
        self._pieces = pieces
        self._ends = ends
        self._layer = layer
        self._layers = list(layers)
        self._interleaves = interleaves and len(layers) == 1 and all(ends)

    def __copy__(self) -> PimStageCost:
        """The same, with counters of its own."""
        twin = object.__new__(PimStageCost)
        twin.__dict__.update(self.__dict__, _pieces=copy(self._pieces))
        return twin

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`."""
        if self._interleaves and load.decodes + (load.prefill_tokens > 0) > 1:
            return [self._interleaved_ns(*halves(load))]
        first, rows, last = self._rows_ns(load)
        times = [count * (rows + self._layer.layer_ns(load)) for count in self._layers]
        times[0] += first if self._ends[0] else 0
        times[-1] += last if self._ends[1] else 0
        return times

    def _rows_ns(self, load: StepLoad) -> tuple[int, int, int]:
        """The embedding, a layer's rows on the NPU (attention of prompts among them), and the head."""
        first, layer, last = self._pieces.stage_ns(load)
        prompts = 0
        if load.prefill_tokens:
            prompts = self._pieces.attention_ns(StepShape(load.prefill_tokens, load.prefill_context))
        return first, layer - self._pieces.attention_ns(load) + prompts, last

    def _interleaved_ns(self, one: StepLoad, other: StepLoad) -> int:
        (first_a, rows_a, last_a), (first_b, rows_b, last_b) = self._rows_ns(one), self._rows_ns(other)
        in_memory_a, in_memory_b = self._layer.layer_ns(one), self._layer.layer_ns(other)
        layer = max(rows_a + rows_b, rows_a + in_memory_a, rows_b + in_memory_b)
        return first_a + first_b + self._layers[0] * layer + last_a + last_b

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range."""
        return self._pieces.notes()


def halves(load: StepLoad) -> tuple[StepShape, StepShape]:
    """A step's requests, largest first, each to the half with fewer tokens: its prompts to one, decodes to even out."""
    tokens, decodes = load.prefill_tokens, load.decodes
    to_one = max((decodes - tokens) // 2, 0) if tokens else decodes - decodes // 2
    mean = load.decode_context / decodes if decodes else 0.0
    samples_prompts = load.sampled - decodes

    def part(count: int, prompts: bool) -> StepShape:
        return StepShape(
            prefill_tokens=tokens if prompts else 0,
            prefill_context=load.prefill_context if prompts else 0,
            decodes=count,
            decode_context=round(mean * count),
            min_context=load.min_context if count else 0,
            max_context=load.max_context if count else 0,
            sampled=count + (max(samples_prompts, 0) if prompts else 0),
        )

    return part(to_one, True), part(decodes - to_one, False)
