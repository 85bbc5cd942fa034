"""From a point to its result: what a worker does. Picklable, and the same whoever does it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from penstock import __version__
from penstock.errors import UserError
from penstock.explore.capacity import Capacity, CapacityOptions, HopelessError, find_capacity
from penstock.explore.design_point import DesignPoint, Site, cluster_config
from penstock.explore.hold import hold_rate
from penstock.explore.load_test import LoadTest, Trial, shown_statistics_ns
from penstock.explore.result import FAILED, HOPELESS, INFEASIBLE, MISSES, OK, PointResult
from penstock.explore.slo import shown_ns
from penstock.explore.steady_state import UNSERVED, SteadyState
from penstock.explore.study_spec import LoadPlan
from penstock.spec.cluster import Calibration
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.offered_load import OfferedLoad
from penstock.workload.workload import Workload

PILOT = "pilot"
FULL = "full"
_KEY_DIGITS = 16


@dataclass(frozen=True, slots=True)
class PointJob:
    """One evaluation. ``guess_per_s`` is where the search for the capacity begins: the pilot's."""

    key: str
    phase: str
    point: DesignPoint
    guess_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Everything about a search that is the same for all points. What points share is made once in each process."""

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
            "usd_per_hour": point.usd_per_hour(self.prices),
        }
        return PointJob(_hash(meaning)[:_KEY_DIGITS], phase, point, guess_per_s)

    def __call__(self, job: PointJob) -> PointResult:
        """Evaluate; what is wrong with a point stands in its result.

        Raises:
            Exception: an error of the program, not of the point.
        """
        try:
            load_test = self.load_test(job.point)
            if self.load.rate is None:
                return self._at_capacity(job, load_test)
            return self._at_rate(job, load_test)
        except HopelessError as error:
            return without_figures(job, HOPELESS, error.problems[0].message, error.trials)
        except UserError as error:
            return without_figures(job, INFEASIBLE, str(error.problems[0].message))

    @cached_property
    def offered_load(self) -> OfferedLoad:
        """What every point is loaded with."""
        return OfferedLoad(self.load.workload, self.load.arrivals, self.load.recipe)

    def load_test(self, point: DesignPoint) -> LoadTest:
        """A point, built.

        Raises:
            UserError: it cannot run.
        """
        cluster = load_cluster(
            cluster_config(point, self.site),
            profile_root=self.profile_root,
            calibration=self.calibration,
        )
        options = RunOptions(router=point.router, profile_root=self.profile_root)
        return LoadTest(cluster, self.offered_load, self.load.slo, options)

    def _at_capacity(self, job: PointJob, load_test: LoadTest) -> PointResult:
        pilot = job.phase == PILOT
        options = CapacityOptions(
            seeds=1 if pilot else self.load.seeds,
            tolerance=self.load.tolerance,
            requests=(self.load.pilot if pilot else None) or self.load.requests,
            max_requests=self.load.max_requests,
            guess_per_s=job.guess_per_s,
            rough=pilot,
        )
        found = find_capacity(load_test, options, explain=not pilot)
        return self.result(job, load_test, found)

    def _at_rate(self, job: PointJob, load_test: LoadTest) -> PointResult:
        rate = self.load.rate
        if not isinstance(rate, float):
            return self._as_given(job, load_test)
        found = hold_rate(load_test, rate, self._options())
        result = self.result(job, load_test, found)
        state = found.held or found.broke
        assert state is not None
        result = replace(result, high_per_s=rate, low_per_s=rate, unbounded=False)
        if found.held is not None:
            return result
        return replace(result, status=MISSES, reason=missed(state))

    def _as_given(self, job: PointJob, load_test: LoadTest) -> PointResult:
        """The trace as it is: a story with a beginning and an end, looked at whole."""
        trial = load_test.try_as_given()
        found = Capacity(
            rate_per_s=trial.requests_per_s,
            low_per_s=trial.requests_per_s,
            high_per_s=trial.requests_per_s,
            goodput_per_s=trial.requests_per_s * trial.attained,
            full=None,
            held=None,
            broke=None,
            requests=trial.requests,
            trials=(trial,),
            bottleneck=load_test.explain(None, 0),
        )
        result = replace(
            self.result(job, load_test, found),
            statistics_ns=trial.statistics_ns,
            excess=trial.excess,
            high_per_s=trial.requests_per_s,
            unbounded=False,
            limiting_metric=trial.worst,
        )
        if trial.holds:
            return result
        value = trial.statistics_ns.get(trial.worst or "")
        return replace(
            result, status=MISSES, reason=f"{trial.worst} is {shown_ns(value)} over the whole trace"
        )

    def _options(self) -> CapacityOptions:
        return CapacityOptions(
            seeds=self.load.seeds,
            tolerance=self.load.tolerance,
            requests=self.load.requests,
            max_requests=self.load.max_requests,
        )

    def result(self, job: PointJob, load_test: LoadTest, found: Capacity) -> PointResult:
        """What was found, as a search keeps it."""
        tokens_per_s = found.rate_per_s * load_test.offered_load.answer_tokens
        usd = job.point.usd_per_hour(self.prices)
        bottleneck = found.bottleneck
        state = found.held or found.broke
        return PointResult(
            key=job.key,
            phase=job.phase,
            point=job.point,
            status=OK,
            rate_per_s=found.rate_per_s,
            low_per_s=found.low_per_s,
            high_per_s=_finite(found.high_per_s),
            unbounded=found.unbounded,
            goodput_per_s=found.goodput_per_s,
            saturated_per_s=found.saturated_per_s,
            generated_tokens_per_s=tokens_per_s,
            usd_per_million_tokens=None
            if usd is None or not tokens_per_s
            else usd / 3600 / tokens_per_s * 1e6,
            joules_per_token=_joules_per_token(found),
            requests=found.requests,
            why_wide=found.why_wide,
            excess=None if state is None else _finite(state.excess),
            limiting_metric=(found.broke or found.held or _Nothing).worst,
            limiting_cause=bottleneck.cause if bottleneck else None,
            limiting_text=bottleneck.text if bottleneck else None,
            statistics_ns={} if state is None else shown_statistics_ns(state),
            stages=bottleneck.stages if bottleneck else (),
            trials=found.trials,
            basis=load_test.basis,
        )


def _joules_per_token(found: Capacity) -> float | None:
    """Mean of the trials at the tried rate that is nearest to the capacity; None where power is not known."""
    known = [
        (trial.rate_per_s or found.rate_per_s, trial.joules_per_token)
        for trial in found.trials
        if trial.joules_per_token is not None
    ]
    if not known:
        return None
    nearest_rate = min((rate for rate, _ in known), key=lambda rate: abs(rate - found.rate_per_s))
    values = [joules for rate, joules in known if rate == nearest_rate]
    return sum(values) / len(values)


class _Nothing:
    """Where no steady state was measured."""

    worst: str | None = None


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
        "recipe": None if load.recipe is None else repr(load.recipe),
        "lengths": [load.pilot, load.requests, load.max_requests],
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
    return without_figures(job, FAILED, reason)


def without_figures(job: PointJob, status: str, reason: str, trials: tuple[Trial, ...] = ()) -> PointResult:
    """Of a point that has none, and why."""
    return PointResult(
        key=job.key, phase=job.phase, point=job.point, status=status, reason=reason, trials=trials
    )


def missed(state: SteadyState) -> str:
    """What the SLO misses at a rate, in words."""
    if state.worst == "queue":
        growth = state.drift.growth.estimate
        return f"the queue grows without end, by {growth:.3g} of {state.rate_per_s:g} requests/s"
    bounds = [bound for bound in (state.slo.bounds if state.slo else ()) if bound.name == state.worst]
    if not bounds:
        return "requests were rejected"
    value = state.bounds_ns[bounds[0].name].estimate
    return f"{bounds[0].name} is {shown_ns(value)}, the limit {shown_ns(bounds[0].limit_ns)}"


def unsure(state: SteadyState) -> str:
    """Why an SLO that holds by the estimates may not hold."""
    for bound in state.slo.bounds if state.slo else ():
        found = state.bounds_ns.get(bound.name)
        if found is not None and found.high > bound.limit_ns:
            reaches = shown_ns(found.high)
            return (
                f"{bound.name} is {shown_ns(found.estimate)}, but its 95% interval reaches {reaches}, the limit "
                f"{shown_ns(bound.limit_ns)}"
            )
    if not all(run.settled for run in state.runs):
        return "they end before the queue has settled"
    if state.drift.growth.high > UNSERVED * state.rate_per_s:
        return "they are too short to be sure that the queue does not grow"
    return "their latencies hang together for too long for their number"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _hash(meaning: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
