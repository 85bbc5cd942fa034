"""A space of deployments: its points, and why some of them cannot run."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from penstock.cost.memory import plan_memory
from penstock.errors import UserError
from penstock.explore.constraints import Constraint
from penstock.explore.design_point import DesignPoint, Site, cluster_config, misplaced, settled
from penstock.pipeline.partition import partition_layers
from penstock.spec.cluster import Calibration
from penstock.spec.load import load_cluster

FILL = "fill"
MAX_GPUS = 100_000
"""Of a deployment: to build more replicas takes minutes and answers nothing that fewer do not."""


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why a point cannot run: a ``kind`` to count by, and the sentence."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Dimension:
    """One choice and its values."""

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """The product of its dimensions. A choice is a tuple of value indices, one per dimension."""

    dimensions: tuple[Dimension, ...]

    @property
    def size(self) -> int:
        """Choices, those that cannot run and those that mean the same included."""
        return math.prod(len(dimension.values) for dimension in self.dimensions)

    def choices(self) -> Iterator[tuple[int, ...]]:
        """All, the last dimension fastest."""
        return itertools.product(*(range(len(dimension.values)) for dimension in self.dimensions))

    def point(self, choice: Sequence[int]) -> DesignPoint | Infeasible:
        """What a choice means, in its plainest form: choices that cannot matter are the engine's own."""
        chosen: dict[str, Any] = {
            dimension.name: dimension.values[index]
            for dimension, index in zip(self.dimensions, choice, strict=True)
        }
        gpus = chosen.pop("gpus", None)
        if chosen["replicas"] == FILL:
            shape = _shape({**chosen, "replicas": 1})
            per_replica, prefill = shape.pool.gpus_per_replica, shape.gpus - shape.pool.gpus
            if gpus is None or gpus <= prefill or (gpus - prefill) % per_replica:
                return Infeasible("gpus", f"{_product(shape)} does not divide {_left(gpus, prefill)}")
            chosen["replicas"] = (gpus - prefill) // per_replica
        shape = _shape(chosen)
        apart = f" and {shape.gpus - shape.pool.gpus} for prefill" if shape.prefill_replicas else ""
        total = f"tp {shape.tp} x pp {shape.pp} x {shape.replicas} replicas{apart}"
        if gpus is not None and shape.gpus != gpus:
            return Infeasible("gpus", f"{total} is not {gpus} GPUs")
        if shape.gpus > MAX_GPUS:
            return Infeasible("gpus", f"{total} are more than {MAX_GPUS:,} GPUs")
        chosen["max_in_flight"] = _depth(chosen["max_in_flight"], chosen["pp"])
        partition = chosen["partition"]
        if isinstance(partition, tuple) and len(partition) != chosen["pp"]:
            return Infeasible(
                "partition", f"a partition of {len(partition)} stages does not fit pp {chosen['pp']}"
            )
        return _plain(DesignPoint(**chosen))


@dataclass(frozen=True, slots=True)
class Spaces:
    """Several spaces, one after the other, and what all of their points must keep. A choice is the number of a space
    and a choice of it. ``prices`` are US dollars per GPU and hour by hardware."""

    parts: tuple[Space, ...]
    constraints: tuple[Constraint, ...] = ()
    prices: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def size(self) -> int:
        """Choices of all, as :attr:`Space.size` counts them."""
        return sum(part.size for part in self.parts)

    def choices(self) -> Iterator[tuple[int, ...]]:
        """All, space after space."""
        for number, part in enumerate(self.parts):
            for choice in part.choices():
                yield (number, *choice)

    def point(self, choice: Sequence[int]) -> DesignPoint | Infeasible:
        """What a choice means; see :meth:`Space.point`."""
        found = self.parts[choice[0]].point(choice[1:])
        if isinstance(found, Infeasible):
            return found
        for constraint in self.constraints:
            if not constraint.holds(found, found.usd_per_hour(self.prices)):
                return Infeasible(constraint.text, f"{found.label} does not keep it")
        return found

    def propose(self, pick: Callable[[str, int], int]) -> tuple[int, ...]:
        """A choice by ``pick(name, number of values)``; names are unique over all spaces."""
        number = pick("space", len(self.parts)) if len(self.parts) > 1 else 0
        prefix = f"{number}." if len(self.parts) > 1 else ""
        dimensions = self.parts[number].dimensions
        return (number, *(pick(prefix + one.name, len(one.values)) for one in dimensions))


def _depth(depth: int | str | None, pp: int) -> int | None:
    """``pp+1`` and the like as a number; None where it is the engine's own choice."""
    if isinstance(depth, str):
        extra = depth.removeprefix("pp").lstrip("+")
        depth = pp + int(extra or 0)
    return None if depth == pp else depth


def _shape(chosen: Mapping[str, Any]) -> DesignPoint:
    """The pools of a choice, before its other members are looked at."""
    members = ("hardware", "tp", "pp", "replicas", "dp", "prefill_replicas", "prefill_tp", "prefill_pp")
    return DesignPoint(**{name: chosen[name] for name in members})


def _product(shape: DesignPoint) -> str:
    ranks = f" x dp {shape.dp}" if shape.dp > 1 else ""
    return f"tp {shape.tp} x pp {shape.pp}{ranks} = {shape.pool.gpus_per_replica}"


def _left(gpus: int | None, apart: int) -> str:
    return f"the {(gpus or 0) - apart} of {gpus} GPUs that prefill leaves" if apart else f"{gpus} GPUs"


def _plain(point: DesignPoint) -> DesignPoint:
    if not point.prefill_replicas:
        point = replace(point, prefill_hardware=None, prefill_tp=None, prefill_pp=None)
    if point.replicas == 1 and point.prefill_replicas <= 1:
        point = replace(point, router="LOAD")
    if point.pp == 1:
        point = replace(point, partition="even")
    return point


class Feasibility:
    """Whether points can run at a site: the loader's rules, layout, memory. Nothing is compiled for it."""

    def __init__(self, site: Site, profile_root: str | None, calibration: Calibration | None = None) -> None:
        self._site = site
        self._calibration = calibration
        self._profile_root = None if profile_root is None else Path(profile_root)

    def settled(self, point: DesignPoint) -> DesignPoint:
        """The point in its plainest form at this site."""
        return settled(point, self._site)

    def why_not(self, point: DesignPoint) -> Infeasible | None:
        """None if the point can run."""
        alone = replace(point, replicas=1, prefill_replicas=min(point.prefill_replicas, 1))
        try:
            cluster = load_cluster(
                cluster_config(alone, self._site),
                profile_root=self._profile_root,
                calibration=self._calibration,
            )
        except UserError as error:
            problem = error.problems[0]
            return Infeasible(problem.where.rpartition(".")[2], problem.message)
        layout = misplaced(point, self._site)
        if layout is not None:
            return Infeasible("nodes", layout)
        for instance in (cluster.instances[0], cluster.instances[-1]):
            layers = instance.layer_partition
            if not isinstance(layers, tuple):
                layers = partition_layers(instance.model.num_layers, instance.pp_size)
            try:
                plan_memory(instance, instance.model.cut(layers))
            except UserError as error:
                return Infeasible("memory", error.problems[0].message)
        return None


@dataclass(frozen=True, slots=True)
class Pruned:
    """Points that cannot run, counted by kind, each kind with its first sentence."""

    counts: Mapping[str, int]
    examples: Mapping[str, str]

    @property
    def total(self) -> int:
        """Of all kinds."""
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """``12 x memory: ...``, most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [f"{count} x {kind}: {self.examples[kind]}" for kind, count in ordered]


class PrunedCounter:
    """Counts reasons as they come."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def add(self, reason: Infeasible) -> None:
        """One more point that cannot run."""
        self._counts[reason.kind] += 1
        self._examples.setdefault(reason.kind, reason.text)

    def pruned(self) -> Pruned:
        """All so far."""
        return Pruned(dict(self._counts), dict(self._examples))


def enumerate_points(space: Spaces, feasibility: Feasibility) -> tuple[list[DesignPoint], Pruned]:
    """Every point that can run, each once, in the order of the choices; and the others by reason."""
    points: dict[DesignPoint, None] = {}
    known: dict[DesignPoint, Infeasible | None] = {}
    counter = PrunedCounter()
    for choice in space.choices():
        point = space.point(choice)
        if isinstance(point, Infeasible):
            counter.add(point)
            continue
        point = feasibility.settled(point)
        if point in known:
            continue
        known[point] = reason = feasibility.why_not(point)
        if reason is None:
            points[point] = None
        else:
            counter.add(reason)
    return list(points), counter.pruned()
