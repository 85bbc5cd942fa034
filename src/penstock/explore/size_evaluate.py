"""What a worker does for a question of size: three kinds of look at one deployment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from penstock.errors import UserError
from penstock.explore.capacity import CapacityOptions
from penstock.explore.design_point import DesignPoint
from penstock.explore.evaluate import Evaluator, PointJob, missed, unsure, without_figures
from penstock.explore.hold import find_edge, hold_rate
from penstock.explore.result import HOPELESS, INFEASIBLE, MISSES, OK, PointResult
from penstock.explore.slo import shown_ns

ALONE = "alone"
HOLD = "hold"
EDGE = "edge"

ALONE_REQUESTS = 20

CLEAR_EXCESS = 1.1
"""Twice and more what estimates of runs of this length err by, near limits that are not of their tails."""


@dataclass(frozen=True, slots=True)
class SizeJob:
    """``alone``: whether requests that come one by one are within the SLO. ``hold``: whether a rate is. ``edge``: how
    much more is, from ``rate_per_s``, which holds with the given ``excess``, and a ``guess_per_s``."""

    kind: str
    point: DesignPoint
    rate_per_s: float
    requests: int
    guess_per_s: float = math.inf
    excess: float = 0.0


@dataclass(frozen=True, slots=True)
class SizeEvaluator:
    """Picklable, and the same whoever does it."""

    evaluator: Evaluator

    def __call__(self, job: SizeJob) -> PointResult:
        """Evaluate; what is wrong with a deployment stands in its result."""
        named = PointJob("", job.kind, job.point)
        try:
            load_test = self.evaluator.load_test(job.point)
        except UserError as error:
            return without_figures(named, INFEASIBLE, error.problems[0].message)
        if job.kind == ALONE:
            trial, _ = load_test.run_at(job.rate_per_s, 0, job.requests)
            if trial.holds:
                return replace(without_figures(named, OK, ""), basis=load_test.basis)
            worst = trial.worst or ""
            value = shown_ns(trial.statistics_ns.get(worst))
            return without_figures(named, HOPELESS, f"{worst} of requests that come one by one is {value}")
        if job.kind == EDGE:
            found = find_edge(load_test, (job.rate_per_s, job.excess), job.guess_per_s, job.requests)
            return self.evaluator.result(named, load_test, found)
        options = CapacityOptions(
            seeds=1, requests=job.requests, max_requests=self.evaluator.load.max_requests
        )
        found = hold_rate(load_test, job.rate_per_s, options, explain=False, clear_excess=CLEAR_EXCESS)
        result = self.evaluator.result(named, load_test, found)
        if found.broke is not None:
            return replace(result, status=MISSES, reason=missed(found.broke))
        if found.held is not None and found.why_wide is not None:
            return replace(result, why_wide=f"{found.why_wide}: {unsure(found.held)}")
        return result
