"""What a search optimises: figures of a point's result, each with its better direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.explore.result import PointResult


@dataclass(frozen=True, slots=True)
class Objective:
    """``value`` is None where the result has no such figure. ``measured`` ones carry noise, the others are
    exact."""

    name: str
    unit: str
    maximise: bool
    value: Callable[[PointResult], float | None]
    measured: bool = True

    def better(self, one: float, other: float, factor: float = 1.0) -> bool:
        """Whether ``one`` is at least as good as ``other``, by at least ``factor`` where it is measured."""
        if not self.measured:
            factor = 1.0
        return one >= other * factor if self.maximise else one * factor <= other


def _statistic(name: str) -> Callable[[PointResult], float | None]:
    def value(result: PointResult) -> float | None:
        found = result.statistics_ns.get(name)
        return None if found is None else found / 1e6

    return value


OBJECTIVES: tuple[Objective, ...] = (
    Objective("goodput_per_gpu", "requests/s per GPU", True, lambda r: r.goodput_per_gpu),
    Objective("goodput", "requests/s", True, lambda r: r.goodput_per_s),
    Objective("cost_per_million_tokens", "USD", False, lambda r: r.usd_per_million_tokens),
    Objective("ttft_p99", "ms", False, _statistic("ttft_p99")),
    Objective("tpot_p99", "ms", False, _statistic("tpot_p99")),
    Objective("gpus", "GPUs", False, lambda r: float(r.gpus), measured=False),
)


def find_objective(name: str) -> Objective | None:
    """By its name."""
    return next((objective for objective in OBJECTIVES if objective.name == name), None)


def values_of(result: PointResult, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """All figures, or None if the result has no place in a comparison."""
    values = [objective.value(result) for objective in objectives]
    known = [value for value in values if value is not None]
    return tuple(known) if result.comparable and len(known) == len(values) else None


def beaten(
    values: Sequence[float], others: Sequence[Sequence[float]], objectives: Sequence[Objective], factor: float
) -> int | None:
    """The first of ``others`` that is better by ``factor`` on every objective, as its index."""
    for index, other in enumerate(others):
        pairs = zip(objectives, other, values, strict=True)
        if all(objective.better(theirs, ours, factor) for objective, theirs, ours in pairs):
            return index
    return None


def pareto_front(results: Sequence[PointResult], objectives: Sequence[Objective]) -> list[int]:
    """Indices of the results that no other one beats: at least as good on all objectives, better on one."""
    known = [
        (index, values) for index, result in enumerate(results) if (values := values_of(result, objectives))
    ]
    front: list[int] = []
    for index, values in known:
        dominated = any(
            other != values
            and all(o.better(theirs, ours) for o, theirs, ours in zip(objectives, other, values, strict=True))
            for _, other in known
        )
        if not dominated:
            front.append(index)
    return front
