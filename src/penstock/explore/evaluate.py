"""From a point to its result: what a worker does. Picklable, and the same whoever does it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from penstock import __version__
from penstock.errors import UserError
from penstock.explore.capacity import Capacity, CapacityOptions, HopelessError, find_capacity
from penstock.explore.design_point import DesignPoint, Site, cluster_config
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.offered_load import OfferedLoad
from penstock.explore.result import FAILED, HOPELESS, INFEASIBLE, MISSES, OK, PointResult
from penstock.explore.slo import shown_ns
from penstock.explore.study_spec import LoadPlan
from penstock.spec.cluster import Calibration
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload

PILOT = "pilot"
FULL = "full"
PILOT_TOLERANCE = 0.1
_KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class PointJob:
    """One evaluation. ``guess_per_s`` is where the search for the capacity begins: the pilot's."""

    key: str
    phase: str
    point: DesignPoint
    guess_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluator:
    """Everything about a search that is the same for all points."""

    site: Site
    load: LoadPlan
    prices: Mapping[str, float]
    profile_root: str | None
    calibration: Calibration | None = None
    digest: str = field(default="")

    def job(self, point: DesignPoint, phase: str, guess_per_s: float | None = None) -> PointJob:
        """A job with its key: equal for equal points under equal circumstances, in any search."""
        meaning = {
            "penstock": __version__,
            "circumstances": self.digest,
            "phase": phase,
            "cluster": cluster_config(point, self.site),
            "router": point.router,
            "guess_per_s": guess_per_s,
            "usd_per_hour": self.prices.get(point.hardware),
        }
        return PointJob(_hash(meaning)[:_KEY_DIGITS], phase, point, guess_per_s)

    def __call__(self, job: PointJob) -> PointResult:
        """Evaluate; what is wrong with a point stands in its result.

        Raises:
            Exception: an error of the program, not of the point.
        """
        try:
            load_test = self._rig(job)
            if self.load.rate is None:
                return self._at_capacity(job, load_test)
            return self._at_rate(job, load_test)
        except HopelessError as error:
            return _without(job, HOPELESS, error.problems[0].message, error.trials)
        except UserError as error:
            return _without(job, INFEASIBLE, str(error.problems[0].message))

    def _rig(self, job: PointJob) -> LoadTest:
        cluster = load_cluster(
            cluster_config(job.point, self.site),
            profile_root=self.profile_root,
            calibration=self.calibration,
        )
        pilot = job.phase == PILOT and self.load.pilot is not None
        workload = self.load.pilot if pilot and self.load.pilot is not None else self.load.workload
        options = RunOptions(router=job.point.router, profile_root=self.profile_root)
        return LoadTest(cluster, OfferedLoad(workload, self.load.arrivals), self.load.slo, options)

    def _at_capacity(self, job: PointJob, load_test: LoadTest) -> PointResult:
        pilot = job.phase == PILOT
        options = CapacityOptions(
            seeds=1 if pilot else self.load.seeds,
            tolerance=max(PILOT_TOLERANCE, self.load.tolerance) if pilot else self.load.tolerance,
            guess_per_s=job.guess_per_s,
            look_below=not pilot,
        )
        found = find_capacity(load_test, options, explain=not pilot)
        shown = found.edges[0].held if found.edges else found.trials[0]
        return self._result(job, load_test, found, shown)

    def _at_rate(self, job: PointJob, load_test: LoadTest) -> PointResult:
        rate = self.load.rate
        if isinstance(rate, float):
            trials = [load_test.try_rate(rate, seed) for seed in range(self.load.seeds)]
            at_rate = rate
        else:
            trials = [load_test.try_as_given()]
            at_rate = trials[0].requests_per_s
        attained = sum(trial.attained for trial in trials) / len(trials)
        found = Capacity(
            rate_per_s=at_rate,
            low_per_s=at_rate,
            high_per_s=at_rate,
            goodput_per_s=at_rate * attained,
            saturated_per_s=math.inf,
            edges=(),
            trials=tuple(trials),
            bottleneck=load_test.explain(trials[0].rate_per_s, 0),
        )
        result = self._result(job, load_test, found, max(trials, key=_excess), unbounded=False)
        broken = [trial for trial in trials if not trial.holds]
        if not broken:
            return result
        reason = f"{len(broken)} of {len(trials)} runs miss the SLO: {_missed(broken[0], self.load)}"
        return replace(result, status=MISSES, reason=reason)

    def _result(
        self,
        job: PointJob,
        load_test: LoadTest,
        found: Capacity,
        shown: Trial,
        *,
        unbounded: bool | None = None,
    ) -> PointResult:
        answers = self.load.workload.total_output_tokens / len(self.load.workload)
        lasting = min(1.0, found.saturated_per_s / found.rate_per_s)
        tokens_per_s = (
            lasting * found.rate_per_s * answers * (len(self.load.workload) / len(load_test.offered_load))
        )
        usd = self.prices.get(job.point.hardware)
        bottleneck = found.bottleneck
        open_end = not found.edges if unbounded is None else unbounded
        return PointResult(
            key=job.key,
            phase=job.phase,
            point=job.point,
            status=OK,
            rate_per_s=found.rate_per_s,
            low_per_s=found.low_per_s,
            high_per_s=None if open_end else found.high_per_s,
            unbounded=open_end,
            goodput_per_s=lasting * found.goodput_per_s,
            saturated_per_s=_finite(found.saturated_per_s),
            generated_tokens_per_s=tokens_per_s,
            usd_per_million_tokens=None
            if usd is None or not tokens_per_s
            else usd * job.point.gpus / 3600 / tokens_per_s * 1e6,
            limiting_metric=found.edges[0].broke.worst if found.edges else shown.worst,
            limiting_cause=bottleneck.cause if bottleneck else None,
            limiting_text=bottleneck.text if bottleneck else None,
            statistics_ns=shown.statistics_ns,
            stages=bottleneck.stages if bottleneck else (),
            trials=found.trials,
            basis=load_test.basis,
        )


def make_evaluator(
    site: Site,
    load: LoadPlan,
    prices: Mapping[str, float],
    profile_root: str | None,
    calibration: Calibration | None = None,
) -> Evaluator:
    """An evaluator that knows what its results depend on."""
    circumstances: dict[str, Any] = {
        "workload": workload_digest(load.workload),
        "pilot": None if load.pilot is None else workload_digest(load.pilot),
        "arrivals": [load.arrivals.kind, load.arrivals.burstiness],
        "slo": None if load.slo is None else str(load.slo),
        "rate": load.rate,
        "seeds": load.seeds,
        "tolerance": load.tolerance,
        "profile_root": profile_root,
    }
    if calibration is not None:
        circumstances["calibration"] = asdict(calibration)
    return Evaluator(
        site=site,
        load=load,
        prices=prices,
        profile_root=profile_root,
        calibration=calibration,
        digest=_hash(circumstances),
    )


def workload_digest(workload: Workload) -> str:
    """Equal for equal requests: times, lengths, token ids where there are any."""
    state = hashlib.sha256()
    for column in (workload.arrival_ns, workload.input_tokens, workload.output_tokens):
        state.update(column.tobytes())
    if workload.has_token_ids or workload.has_sessions:
        for index in range(len(workload)):
            request = workload.request(index)
            for ids in (request.input_ids, request.output_ids):
                state.update(b"-" if ids is None else ids.tobytes())
            state.update(str(request.session).encode())
    return state.hexdigest()


def lost(job: PointJob, reason: str) -> PointResult:
    """The result of a job that has none."""
    return _without(job, FAILED, reason)


def _without(job: PointJob, status: str, reason: str, trials: tuple[Trial, ...] = ()) -> PointResult:
    return PointResult(
        key=job.key, phase=job.phase, point=job.point, status=status, reason=reason, trials=trials
    )


def _missed(trial: Trial, load: LoadPlan) -> str:
    bounds = [bound for bound in (load.slo.bounds if load.slo else ()) if bound.name == trial.worst]
    if not bounds:
        return "requests were rejected"
    value = trial.statistics_ns[bounds[0].name]
    shown = "never" if value is None else shown_ns(value)
    return f"{bounds[0].name} is {shown}, the limit {shown_ns(bounds[0].limit_ns)}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _excess(trial: Trial) -> float:
    return float("inf") if trial.excess is None else trial.excess


def _hash(meaning: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
