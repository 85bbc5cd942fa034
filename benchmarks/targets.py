"""What the project asks of its speed, and what a set of measurements says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    found = [
        _at_least(f"iterations per CPU second, pp 4, {running} running", limit, "/s", _rate(groups, running))
        for running, limit in ((128, 200_000), (512, 100_000))
    ]
    for mode, limit in (
        ("async scheduling", 100_000),
        ("decode-cap", 100_000),
        ("gllm", 100_000),
        ("sglang", 100_000),
    ):
        rates = (row["iterations_per_s"] for row in groups.get("modes", ()) if row["mode"] == mode)
        found.append(_at_least(f"the same at 128, {mode}", limit, "/s", next(rates, None)))
    found.append(_at_least("times the reference scheduler at 512 running", 30, "x", ratio(groups)))
    processes = {row["name"]: row for row in groups.get("processes", ())}
    limits = (
        ("100,000 requests, pp4, CSV without ITL", 30, 600),
        ("1,000,000 requests, 128 x pp4, CSV without ITL", 600, 3000),
    )
    for name, cpu_s, peak_mb in limits:
        row = processes.get(name, {})
        found.append(_below(f"{name}: CPU", cpu_s, "s", row.get("min_cpu_s")))
        found.append(_below(f"{name}: peak memory", peak_mb, "MB", row.get("peak_mb")))
    for name, row in processes.items():
        if name.startswith("300 ShareGPT"):
            found.append(_below(f"{name}: CPU", 0.35, "s", row["min_cpu_s"]))
    found.append(
        _below("penstock --help: CPU", 0.3, "s", processes.get("penstock --help", {}).get("min_cpu_s"))
    )
    return found


def ratio(groups: Groups) -> float | None:
    """Reference over a whole run, CPU time for the same requests."""
    seconds = {row["what"]: row["min_cpu_s"] for row in groups.get("reference", ())}
    return seconds["reference"] / seconds["run"] if {"reference", "run"} <= seconds.keys() else None


def _rate(groups: Groups, running: int) -> float | None:
    rows = groups.get("saturated", ())
    found = (
        row["iterations_per_s"] for row in rows if row["max_num_seqs"] == running and row["what"] == "run"
    )
    return next(found, None)


def _at_least(name: str, limit: float, unit: str, value: float | None) -> Target:
    return Target(name=name, limit=limit, unit=unit, at_least=True, value=value)


def _below(name: str, limit: float, unit: str, value: float | None) -> Target:
    return Target(name=name, limit=limit, unit=unit, at_least=False, value=value)
