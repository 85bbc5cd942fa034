"""What a search knows of one point, as it stands in its file of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from penstock.explore.design_point import DesignPoint
from penstock.explore.load_test import Trial

OK = "ok"
MISSES = "misses"
HOPELESS = "hopeless"
INFEASIBLE = "infeasible"
FAILED = "failed"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """``status``: ``ok``; ``misses`` the SLO at the given rate; ``hopeless`` at every rate; ``infeasible`` by the
    engine's rules; ``failed`` with an error of its own; ``stopped`` after the pilot. ``reason`` says why it is not
    ok. ``rate_per_s`` is the capacity (with its interval) or the given rate; statistics, goodput, tokens and their
    price are of the steady state there. ``saturated_per_s`` is the throughput with a queue that never empties,
    ``joules_per_token`` the energy of the runs at the rate nearest to it,
    ``requests`` how long the runs were, ``why_wide`` why the interval is wider than was asked for, ``excess`` the worst
    statistic over its limit.
    """

    key: str
    phase: str
    point: DesignPoint
    status: str
    reason: str | None = None
    rate_per_s: float | None = None
    low_per_s: float | None = None
    high_per_s: float | None = None
    unbounded: bool = False
    saturated_per_s: float | None = None
    goodput_per_s: float | None = None
    generated_tokens_per_s: float | None = None
    usd_per_million_tokens: float | None = None
    joules_per_token: float | None = None
    requests: int | None = None
    why_wide: str | None = None
    excess: float | None = None
    limiting_metric: str | None = None
    limiting_cause: str | None = None
    limiting_text: str | None = None
    statistics_ns: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    stages: tuple[Mapping[str, Any], ...] = ()
    trials: tuple[Trial, ...] = ()
    basis: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        """Of all replicas."""
        return self.point.gpus

    @property
    def goodput_per_gpu(self) -> float | None:
        """Requests per second within the limits, by GPU."""
        return None if self.goodput_per_s is None else self.goodput_per_s / self.gpus

    @property
    def comparable(self) -> bool:
        """Whether it can be on the Pareto front."""
        return self.status == OK

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain = {member.name: getattr(self, member.name) for member in fields(self)}
        return {
            **plain,
            "point": self.point.to_json(),
            "statistics_ns": dict(self.statistics_ns),
            "stages": [dict(stage) for stage in self.stages],
            "trials": [trial.to_json() for trial in self.trials],
            "basis": list(self.basis),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PointResult:
        """What :meth:`to_json` wrote.

        Raises:
            TypeError, KeyError: it did not.
        """
        members: dict[str, Any] = {
            **data,
            "point": DesignPoint.from_json(data["point"]),
            "stages": tuple(data["stages"]),
            "trials": tuple(Trial.from_json(trial) for trial in data["trials"]),
            "basis": tuple(data["basis"]),
        }
        return cls(**members)
