"""Stages whose weights or KV lie outside their NPUs: loads from memory devices beside the compute.

Each step loads anew what is placed elsewhere, in the order of the layers, one load at a time per device. A layer waits
for its own loads, and computes while later ones are loaded, up to ``prefetch_layers`` layers ahead of it:

    asked[l]  = the end of layer l - prefetch_layers, or the step's start
    there[l]  = max over its devices d of: max(free[d], asked[l]) + tensors[l, d] * latency + bytes[l, d] / bandwidth[d]
    end[l]    = max(end[l-1], there[l]) + compute[l]

All ranks of a stage load over one device; of a device that several stages or instances use each has an equal part of
the bandwidth. Of an embedding table only the rows of the step's tokens are read. LLMServingSim loads everything
from the step's start on, as here with room for all layers, and the whole embedding table.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

from penstock.cost.stage import TabulatedStageCost
from penstock.cost.step_cost import StepLoad


@dataclass(frozen=True, slots=True)
class Source:
    """A device as one stage sees it: its part of the bandwidth."""

    bytes_per_ns: float
    latency_ns: float


@dataclass(frozen=True, slots=True)
class PlacedPart:
    """A layer, or what stands at an end of the model: the ``piece`` whose time it takes, and per device the bytes that
    every step loads, with the number of tensors, that it loads per token of the step, and per token of context."""

    piece: int
    fixed: tuple[tuple[int, int, int], ...] = ()
    per_token: tuple[tuple[int, int], ...] = ()
    per_context: tuple[tuple[int, int], ...] = ()


class PlacedStageCost:
    """``StageCost`` of stages made of :class:`PlacedPart`; ``pieces`` tells the compute time of each kind of part as if
    it were a stage. ``parts[s]`` are those of stage s in order, ``sources[s]`` its devices."""

    def __init__(
        self,
        pieces: TabulatedStageCost,
        parts: Sequence[Sequence[PlacedPart]],
        sources: Sequence[Sequence[Source]],
        prefetch: int,
    ) -> None:
        self._pieces = pieces
        self._prefetch = prefetch
        self._stages = list(zip(parts, sources, strict=True))
        self._waited_ns = 0
        self._steps = 0

    def __copy__(self) -> PlacedStageCost:
        """The same parts, and counters of its own."""
        twin = object.__new__(PlacedStageCost)
        twin.__dict__.update(self.__dict__, _pieces=copy(self._pieces), _waited_ns=0, _steps=0)
        return twin

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`."""
        compute = self._pieces.stage_ns(load)
        tokens = load.prefill_tokens + load.decodes
        context = load.prefill_context + load.decode_context
        return [self._stage_ns(parts, sources, compute, (tokens, context)) for parts, sources in self._stages]

    def _stage_ns(
        self,
        parts: Sequence[PlacedPart],
        sources: Sequence[Source],
        compute: Sequence[int],
        held: tuple[int, int],
    ) -> int:
        tokens, context = held
        free = [0.0] * len(sources)
        ends: list[float] = []
        end = 0.0
        busy = 0
        for number, part in enumerate(parts):
            ready = end
            if part.fixed or part.per_token or part.per_context:
                asked = ends[number - self._prefetch] if number >= self._prefetch else 0.0
                sizes = {device: size for device, size, _ in part.fixed}
                tensors = {device: count for device, _, count in part.fixed}
                for per, count in ((part.per_token, tokens), (part.per_context, context)):
                    for device, size in per:
                        sizes[device] = sizes.get(device, 0) + size * count
                for device, size in sizes.items():
                    source = sources[device]
                    start = max(free[device], asked)
                    free[device] = (
                        start
                        + int(source.latency_ns * tensors.get(device, 1))
                        + int(size / source.bytes_per_ns)
                    )
                    ready = max(ready, free[device])
            end = ready + compute[part.piece]
            busy += compute[part.piece]
            ends.append(end)
        self._steps += 1
        self._waited_ns += round(end) - busy
        return round(end)

    def notes(self) -> tuple[str, ...]:
        """Lookups outside the measured range, and how long steps waited for loads."""
        if not self._steps:
            return self._pieces.notes()
        waited = self._waited_ns / self._steps / 1e6
        return (
            *self._pieces.notes(),
            f"steps waited {waited:,.3f} ms on average for weights and KV placed elsewhere",
        )
