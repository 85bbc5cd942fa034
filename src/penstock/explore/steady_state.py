"""What a deployment does in the long run, measured from runs that begin empty and end.

**One run.** Requests in the system are counted at equal distances between the first and the last arrival, and those
that finish in between. MSER-5 on both series finds the warm-up (the longer one counts). The drain begins with the last
arrival: TTFT and queuing are those of the requests that arrive after the warm-up, TPOT, latency and token gaps those
of the ones that arrive before any that is still unfinished then. The queue are the requests that wait for their first
step, and its growth is its slope in between: those that are served together take long to become as many as they will
be, at loads that are far from too high.

**A rate.** Several replications (seeds) at one rate are pooled. A statistic is that of all their requests together, its
95% interval comes from sections of the runs (:func:`penstock.statistics.intervals.sectioned_interval`). Where a
statistic is higher in the second halves of the runs than in the first for sure, it may not have arrived yet: the upper
end of its interval is raised by the same ratio once more. The drift test of :mod:`penstock.statistics.drift` tells an
overloaded queue from one that settles.

All functions are documented with their sources in ``penstock.statistics`` and tested there against queues of known
answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from penstock.accounting.metrics import RequestTable
from penstock.explore.slo import STATISTICS, Slo, name_of, within_limits
from penstock.recording.records import RunRecord
from penstock.statistics.drift import UNKNOWN, Drift, Growth, drift, growth
from penstock.statistics.intervals import Interval, batch_means_interval, sectioned_interval, student_t
from penstock.statistics.percentiles import percentile_of_sorted
from penstock.statistics.warm_up import mser5
from penstock.units import NS_PER_S, Int64Array

FloatArray = npt.NDArray[np.float64]

LOOKS = 400
"""How often the queue is looked at between the first and the last arrival."""

FEWEST_REQUESTS = 100
"""A window with fewer requests in it says nothing of percentiles, nor of a queue that grows: it may be over before
the engine has admitted twice."""

UNSERVED = 0.03
"""A queue that grows by less than this share of the arrivals in one run is not called overloaded: a few residence
times of a window do not tell it from chance. Over r replications it is this share over the square root of r. Behind a
rate that holds for sure stands a growth of at most this share: what is served is then within it of the rate."""

_PERCENTS = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


@dataclass(frozen=True, slots=True)
class SteadyRun:
    """One run between its warm-up and its drain.

    ``times_ns[metric]`` holds a value per request of the window in order of arrival (of ``itl``, per token gap),
    infinite for a rejected request; ``times_ns[metric@priority]`` those of one priority that the SLO bounds.
    ``attained`` is the share of the window's requests within all limits of the SLO
    by themselves, ``finished_per_s`` counts completions.
    """

    window_ns: tuple[int, int]
    times_ns: Mapping[str, FloatArray]
    attained: float
    growth: Growth
    settled: bool
    finished_per_s: float


def steady_run(
    record: RunRecord, last_arrival_ns: int, slo: Slo | None, priority: Int64Array | None = None
) -> SteadyRun:
    """Cut warm-up and drain off a run. ``last_arrival_ns`` is of the last request that arrives by itself; later
    calls of sessions may follow it. ``priority`` is by number of request, for an SLO that bounds one of them."""
    table = RequestTable.of(record)
    rejected = np.array([one.arrival_ns for one in record.rejections], dtype=np.int64)
    arrived = np.concatenate([table.column("arrival_ns"), rejected])
    left = np.concatenate([table.column("finish_ns"), rejected])
    start, end = record.first_arrival_ns, last_arrival_ns
    looks = np.linspace(start, end, LOOKS + 1)[1:]
    in_system = _counted(arrived, looks) - _counted(left, looks)
    admitted = np.concatenate([table.column("first_scheduled_ns"), rejected])
    waiting = _counted(arrived, looks) - _counted(admitted, looks)
    finished = np.diff(_counted(left, looks), prepend=0.0)
    cuts = [mser5(in_system), mser5(finished)]
    cut = max(one.length for one in cuts)
    warm = float(looks[cut - 1]) if cut else float(start)
    seconds = (end - warm) / NS_PER_S
    window = _Window.of(table, rejected, warm, float(end))
    times = _times_of_window(record, table, window)
    for series in slo.series if slo and priority is not None else ():
        metric, _, of = series.partition("@")
        if of:
            chosen = priority == int(of)
            lost = np.array([chosen[one.request] for one in record.rejections], dtype=np.bool_)
            part = window.of_requests(chosen[table.column("request")], rejected[lost])
            times[series] = _times_of_window(record, table, part)[metric]
    return SteadyRun(
        window_ns=(round(warm), end),
        times_ns=times,
        attained=_attained(table, window, slo, priority),
        growth=growth(waiting[cut:], seconds) if window.arrivals >= FEWEST_REQUESTS else UNKNOWN,
        settled=all(one.settled for one in cuts) and window.undisturbed,
        finished_per_s=float(finished[cut:].sum()) / seconds if seconds > 0 else 0.0,
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """Rows of the table that arrive in the window; those of them that finish undisturbed by the drain; and the
    arrivals of requests that were rejected beside each. Where the drain reaches into the warm-up nobody is
    ``undisturbed``: then ``whole`` are all that arrive, for want of better."""

    arriving: npt.NDArray[np.bool_]
    whole: npt.NDArray[np.bool_]
    lost_arriving: npt.NDArray[np.int64]
    lost_whole: npt.NDArray[np.int64]
    undisturbed: bool

    @property
    def arrivals(self) -> int:
        """Requests that arrive in the window, rejected ones too."""
        return int(self.arriving.sum()) + len(self.lost_arriving)

    def of_requests(self, chosen: npt.NDArray[np.bool_], lost: npt.NDArray[np.int64]) -> _Window:
        """Those among ``chosen`` rows and ``lost`` arrivals."""
        return _Window(
            self.arriving & chosen,
            self.whole & chosen,
            self.lost_arriving[np.isin(self.lost_arriving, lost)],
            self.lost_whole[np.isin(self.lost_whole, lost)],
            self.undisturbed,
        )

    @classmethod
    def of(cls, table: RequestTable, rejected: npt.NDArray[np.int64], warm: float, end: float) -> _Window:
        arrival, finish = table.column("arrival_ns"), table.column("finish_ns")
        unfinished = arrival[finish > end]
        until = float(unfinished.min()) if len(unfinished) else end
        arriving = (arrival >= warm) & (arrival <= end)
        lost = rejected[(rejected >= warm) & (rejected <= end)]
        whole = arriving & (arrival < until)
        if arriving.any() and not whole.any():
            return cls(arriving, arriving, lost, lost, undisturbed=False)
        return cls(arriving, whole, lost, lost[lost <= until], undisturbed=True)


def _times_of_window(record: RunRecord, table: RequestTable, window: _Window) -> dict[str, FloatArray]:
    arrival = table.column("arrival_ns")
    several = window.whole & (table.column("output_tokens") > 1)
    times: dict[str, FloatArray] = {}
    for metric, values, chosen, lost in (
        ("ttft", table.ttft_ns, window.arriving, window.lost_arriving),
        ("queuing", table.queuing_ns, window.arriving, window.lost_arriving),
        ("tpot", table.tpot_ns, several, window.lost_whole),
        ("latency", table.latency_ns, window.whole, window.lost_whole),
    ):
        at = np.concatenate([arrival[chosen], lost])
        all_values = np.concatenate([values[chosen].astype(np.float64), np.full(len(lost), math.inf)])
        times[metric] = all_values[np.argsort(at, kind="stable")]
    if record.requests.keep_token_times:
        rows = table.log_rows[window.whole][np.argsort(arrival[window.whole], kind="stable")]
        gaps = [np.diff(record.requests.token_times_ns(int(row))) for row in rows]
        times["itl"] = np.concatenate([np.zeros(0), *gaps]).astype(np.float64)
    return times


def _attained(table: RequestTable, window: _Window, slo: Slo | None, priority: Int64Array | None) -> float:
    """The share of the window's requests that are within all limits by themselves."""
    chosen, lost = window.whole, window.lost_whole
    good = chosen & within_limits(table, slo, priority)
    total = int(chosen.sum()) + len(lost)
    return float(good.sum()) / total if total else 0.0


def _counted(times_ns: npt.NDArray[np.int64], looks: FloatArray) -> FloatArray:
    return np.searchsorted(np.sort(times_ns), looks, side="right").astype(np.float64)


def statistic_of(name: str) -> Callable[[FloatArray], float]:
    """``mean``, ``p99`` ... of values, as :mod:`penstock.explore.slo` counts them: infinite ones are rejected
    requests, beside which nothing is interpolated."""

    def value(values: FloatArray) -> float:
        return _mean_or_ranked(name, values, None if name in ("mean", "max") else np.sort(values))

    return value


def _mean_or_ranked(name: str, values: FloatArray, ranked: FloatArray | None) -> float:
    """:func:`statistic_of` values, where the same in rising order are at hand for percentiles."""
    if name == "mean":
        return float(values.mean())
    if name == "max":
        return float(values.max())
    assert ranked is not None
    return percentile_of_sorted(ranked, _PERCENTS[name], upper=not math.isfinite(ranked[-1]))


@dataclass(frozen=True)
class SteadyState:
    """Replications at one rate, pooled. ``rate_per_s`` is of requests that arrive by themselves."""

    rate_per_s: float
    runs: tuple[SteadyRun, ...]
    slo: Slo | None

    @cached_property
    def drift(self) -> Drift:
        """Whether the queue grows without end."""
        return drift([run.growth for run in self.runs])

    @cached_property
    def overloaded(self) -> bool:
        """The drift test's word, where the growth is worth one."""
        least = UNSERVED / math.sqrt(len(self.runs)) * self.rate_per_s
        return self.drift.overloaded and self.drift.growth.estimate > least

    @cached_property
    def bounds_ns(self) -> Mapping[str, Interval]:
        """The SLO's statistics with their intervals; what was not measured (TPOT of single tokens) is missing."""
        found: dict[str, Interval] = {}
        for bound in self.slo.bounds if self.slo else ():
            interval = self.interval_ns(bound.series, bound.statistic)
            if interval is not None:
                found[bound.name] = interval
        return found

    @cached_property
    def _estimates_ns(self) -> Mapping[str, float]:
        """What :attr:`bounds_ns` estimates, without the intervals, which take far longer."""
        found: dict[str, float] = {}
        for bound in self.slo.bounds if self.slo else ():
            series = self._series(bound.series)
            if series:
                found[bound.name] = statistic_of(bound.statistic)(np.concatenate(series))
        return found

    def _series(self, metric: str) -> list[FloatArray]:
        """The times of each run that has any."""
        return [run.times_ns[metric] for run in self.runs if len(run.times_ns.get(metric, ()))]

    def interval_ns(self, metric: str, statistic: str) -> Interval | None:
        """One statistic; None where no request has such a time."""
        series = self._series(metric)
        if not series:
            return None
        interval = sectioned_interval(series, statistic_of(statistic))
        few = sum(map(len, series)) < FEWEST_REQUESTS
        raised = interval.high * max(_still_rising(series, statistic), 1.0)
        return Interval(interval.estimate, interval.low, raised, sound=interval.sound and not few)

    def statistics_ns(self, metrics: Sequence[str]) -> dict[str, float | None]:
        """Estimates of all statistics of ``metrics`` (``ttft``, ``ttft@5``); None: not measured, or never."""
        values: dict[str, float | None] = {}
        for metric in metrics:
            series = [run.times_ns[metric] for run in self.runs if metric in run.times_ns]
            pooled = np.concatenate([np.zeros(0), *series])
            ranked = np.sort(pooled)
            for statistic in STATISTICS:
                value = _mean_or_ranked(statistic, pooled, ranked) if len(pooled) else None
                values[name_of(metric, statistic)] = (
                    None if value is None or not math.isfinite(value) else value
                )
        return values

    @property
    def attained(self) -> float:
        """The mean of the runs' shares of requests within all limits."""
        return sum(run.attained for run in self.runs) / len(self.runs)

    @cached_property
    def worst(self) -> str | None:
        """The bound that is exceeded most or closest to it; ``queue`` where that grows without end and no bound
        is exceeded."""
        if self.slo is None:
            return None
        ratios = {name: self._ratio(name, value) for name, value in self._estimates_ns.items()}
        name = max(ratios, key=lambda one: ratios[one], default=self.slo.bounds[0].name)
        return "queue" if self.overloaded and ratios.get(name, 0.0) <= 1 else name

    @cached_property
    def excess(self) -> float:
        """The largest estimate over its limit; infinite where the queue grows without end."""
        if self.overloaded:
            return math.inf
        return max((self._ratio(name, value) for name, value in self._estimates_ns.items()), default=0.0)

    @property
    def highest_excess(self) -> float:
        """The same at the upper ends of the intervals."""
        if self.overloaded:
            return math.inf
        return max((self._ratio(name, found.high) for name, found in self.bounds_ns.items()), default=0.0)

    @property
    def holds(self) -> bool:
        """By the estimates."""
        return self.excess <= 1

    @cached_property
    def sound(self) -> bool:
        """Whether the runs are long enough for their intervals to be trusted."""
        return all(run.settled for run in self.runs) and all(one.sound for one in self.bounds_ns.values())

    @cached_property
    def surely_holds(self) -> bool:
        """At the upper ends of all intervals, and the queue does not grow by more than a small share."""
        kept = all(self._ratio(name, found.high) <= 1 for name, found in self.bounds_ns.items())
        return kept and self.sound and self.drift.growth.high <= UNSERVED * self.rate_per_s

    @cached_property
    def surely_breaks(self) -> bool:
        """At the lower end of some interval, or the queue grows without end."""
        broken = any(self._ratio(name, found.low) > 1 for name, found in self.bounds_ns.items())
        return broken or self.overloaded

    def _ratio(self, name: str, value_ns: float) -> float:
        assert self.slo is not None
        return next(value_ns / bound.limit_ns for bound in self.slo.bounds if bound.name == name)


def _still_rising(series: Sequence[FloatArray], statistic: str) -> float:
    """The ratio of a statistic in the second halves of the runs to the first, where it is above 1 for sure
    (one-sided 95%, paired over three runs or more), else 1."""
    halves = [np.array_split(one, 2) for one in series if len(one) >= 2]
    if len(halves) < 3:
        return 1.0
    of = statistic_of(statistic)
    pairs = np.array([(of(first), of(second)) for first, second in halves])
    if not np.isfinite(pairs).all() or (pairs <= 0).any():
        return 1.0
    ratios = np.log(pairs[:, 1] / pairs[:, 0])
    error = float(ratios.std(ddof=1)) / math.sqrt(len(ratios))
    low = float(ratios.mean()) - student_t(0.90, len(ratios) - 1) * error
    return math.exp(float(ratios.mean())) if low > 0 else 1.0


@dataclass(frozen=True, slots=True)
class FullThroughput:
    """Requests per second with a queue that never empties, its interval, and how many requests are in the engines
    then. ``sound`` is False where the run was over before the engines had been full for long."""

    requests_per_s: Interval
    running: float

    @property
    def sound(self) -> bool:
        """Whether the run was long enough."""
        return self.requests_per_s.sound


def full_throughput(record: RunRecord) -> FullThroughput | None:
    """From a run of requests that all come at once: what is done between the warm-up and the moment when the last
    request leaves the queue. None if nothing finished.

    A request counts with the share of its time in the engine that lies in the window, so that waves of completions
    shift nothing.
    """
    table = RequestTable.of(record)
    if not len(table):
        return None
    begun = table.column("first_scheduled_ns").astype(np.float64)
    done = table.column("finish_ns").astype(np.float64)
    weight = 1 / np.maximum(done - begun, 1.0)
    start, end = float(record.first_arrival_ns), float(begun.max())
    looks = np.linspace(start, max(end, start + 1), LOOKS + 1)
    progress = _work_done(looks, begun, done, weight)
    rates = np.diff(progress) / (np.diff(looks) / NS_PER_S)
    cut = mser5(rates)
    running = _counted(table.column("first_scheduled_ns"), looks) - _counted(table.column("finish_ns"), looks)
    lifetime = float((done - begun).mean())
    long_enough = (end - float(looks[cut.length])) >= 2 * lifetime and len(table) >= FEWEST_REQUESTS
    found = batch_means_interval(rates[cut.length :])
    if not long_enough:
        # Over the whole run: below what a full system does, since filling and emptying count.
        mean = len(table) / max((float(done.max()) - start) / NS_PER_S, 1e-9)
        found = Interval(mean, 0.0, math.inf, sound=False)
    return FullThroughput(found, float(running[cut.length :].mean()))


def _work_done(looks: FloatArray, begun: FloatArray, done: FloatArray, weight: FloatArray) -> FloatArray:
    """Requests' worth of work done until each look: the sum of the shares of their lifetimes that have passed."""
    total = np.zeros(len(looks))
    for when, sign in ((begun, 1.0), (done, -1.0)):
        order = np.argsort(when, kind="stable")
        weights = np.concatenate([[0.0], np.cumsum(weight[order])])
        moments = np.concatenate([[0.0], np.cumsum(weight[order] * when[order])])
        before = np.searchsorted(when[order], looks, side="right")
        total += sign * (weights[before] * looks - moments[before])
    return total
