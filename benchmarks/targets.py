"""What the project asks of its speed, and what a set of measurements says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.goals import GOALS

Groups = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure with its limit: ``value`` None where the case was left out."""

    name: str
    limit: float
    unit: str
    at_least: bool
    value: float | None

    @property
    def is_met(self) -> bool | None:
        """None where there is no value."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value < self.limit


def targets(groups: Groups) -> list[Target]:
    """All targets with what was measured."""
    found: list[Target] = []
    rows = {(row["name"], row["way"]): row for row in groups.get("goals", ())}
    for goal in GOALS:
        for way, limit in (("compiled", goal.compiled), ("plain", goal.plain)):
            if limit is None:
                continue
            value = rows.get((goal.name, way), {}).get("value")
            name = f"{goal.name}, {way}"
            found.append(
                _at_least(name, limit, "/s", value) if goal.is_rate else _below(name, limit, "s", value)
            )
        if goal.peak_mb is not None:
            peak = rows.get((goal.name, "compiled"), {}).get("peak_mb")
            found.append(_below(f"{goal.name}: peak memory", goal.peak_mb, "MB", peak))
    found.append(_at_least("times the reference scheduler at 512 running", 30, "x", ratio(groups)))
    processes = {row["name"]: row for row in groups.get("processes", ())}
    found.append(
        _below("penstock --help: CPU", 0.3, "s", processes.get("penstock --help", {}).get("min_cpu_s"))
    )
    return found


def ratio(groups: Groups) -> float | None:
    """Reference over a whole run, CPU time for the same requests."""
    seconds = {row["what"]: row["min_cpu_s"] for row in groups.get("reference", ())}
    return seconds["reference"] / seconds["run"] if {"reference", "run"} <= seconds.keys() else None


def _at_least(name: str, limit: float, unit: str, value: float | None) -> Target:
    return Target(name=name, limit=limit, unit=unit, at_least=True, value=value)


def _below(name: str, limit: float, unit: str, value: float | None) -> Target:
    return Target(name=name, limit=limit, unit=unit, at_least=False, value=value)
