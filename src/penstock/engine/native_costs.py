"""The costs of an instance as the engine in machine code looks them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock.cost.linear import LinearStageCost
from penstock.cost.stage import MixedStageCost, TabulatedStageCost
from penstock.cost.step_cost import PipelineCost, StageCost, StepShape
from penstock.units import Int64Array

Part = tuple[TabulatedStageCost, tuple[int, ...]]


_KEPT = 16
_made: dict[tuple[int, ...], tuple[Any, tuple[object, ...]]] = {}
"""The core's copies of the costs used last, by the identity of what they were made from, which each keeps alive: the
runs of a deployment, and instances that are alike, share one. The one used last goes last."""


class NativeCosts:
    """Tables and lines are looked up in the core, whatever else a cost may be is asked in Python."""

    def __init__(self, core: Any, cost: PipelineCost) -> None:
        self._stage = cost.stage
        self._parts = _parts(cost.stage, len(cost.hops) + 1)
        hops = [sequence for hop in cost.hops for sequence in (hop.arrival_ns, hop.occupancy_ns)]
        tables: list[object] = [part.shared for part, _ in self._parts] or [cost.stage]
        made_from = (core, *tables, *hops, cost.token_return_ns)
        key = tuple(map(id, made_from))
        entry = _made.pop(key, None) or (self._make(core, cost), made_from)
        _made[key] = entry
        while len(_made) > _KEPT:
            del _made[next(iter(_made))]
        self.tables = entry[0]

    def _make(self, core: Any, cost: PipelineCost) -> Any:
        stage = cost.stage
        lines = [
            (line.base_ns, line.per_token_ns, line.per_context_ns)
            for line in (stage.stages if type(stage) is LinearStageCost else ())
        ]
        hops = [(_column(hop.arrival_ns), _column(hop.occupancy_ns)) for hop in cost.hops]
        parts = [_arrays(part, stages) for part, stages in self._parts]
        return core.Costs(len(cost.hops) + 1, hops, _column(cost.token_return_ns), lines, parts)

    def stage_ns(self, *load: int) -> Sequence[int] | None:
        """The times of a step that the core cannot tell, or None once its tables reach so far."""
        shape = StepShape(*load)
        if not self._parts:
            return self._stage.stage_ns(shape)
        for place, (part, stages) in enumerate(self._parts):
            part.reach(shape.prefill_tokens + shape.decodes, shape.decodes, shape.sampled)
            self.tables.replace(place, _arrays(part, stages))
        return None

    def settle(self, outside: Sequence[int]) -> None:
        """Count the core's lookups beyond what was measured: how often and the furthest, axis by axis."""
        pairs = list(zip(outside[::2], outside[1::2], strict=True))
        for part, _ in self._parts:
            own = pairs[: part.axes]
            del pairs[: part.axes]
            part.count_beyond(own)


def _parts(cost: StageCost, pp_size: int) -> list[Part]:
    """The tables behind a cost, with their stages; none where it is something else."""
    members = cost.members if type(cost) is MixedStageCost else ((cost, tuple(range(pp_size))),)
    parts: list[Part] = []
    for one, stages in members:
        if not isinstance(one, TabulatedStageCost) or not one.is_plain:
            return []
        parts.append((one, stages))
    return parts


def _arrays(part: TabulatedStageCost, stages: tuple[int, ...]) -> dict[str, Any]:
    return {"stages": np.array(stages, dtype=np.int64), **part.as_arrays()}


def _column(values: Sequence[int]) -> Int64Array:
    return np.asarray(values, dtype=np.int64)
