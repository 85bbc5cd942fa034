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
    Objective("joules_per_token", "J", False, lambda r: r.joules_per_token),
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


TIE = 0.01
"""Measured figures closer than this, relative to the better one, are the same for a choice."""


def best_of(results: Sequence[PointResult], objectives: Sequence[Objective]) -> PointResult | None:
    """The best on the first objective; of those tied with it on the second, and so on; then the one furthest from the
    limits of its SLO, then the one with the lower p99 TTFT and TPOT, then the first. None if none has figures."""
    left = [result for result in results if values_of(result, objectives) is not None]
    if not left:
        return None
    for objective in objectives:
        figures = [objective.value(result) or 0.0 for result in left]
        best = max(figures) if objective.maximise else min(figures)
        slack = TIE * abs(best) if objective.measured else 0.0
        left = [one for one, figure in zip(left, figures, strict=True) if abs(figure - best) <= slack]

    def latency(result: PointResult) -> tuple[float, ...]:
        shown = [result.statistics_ns.get(name) for name in ("ttft_p99", "tpot_p99")]
        times = [float("inf") if value is None else value for value in shown]
        return (float("inf") if result.excess is None else result.excess, *times)

    return min(left, key=latency)
