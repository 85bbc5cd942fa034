"""Service-level objectives: upper bounds on latency statistics, ``ttft_p99<2s,tpot_p99<50ms``.

A bound may be on the requests of one priority alone: ``ttft_p99@0<500ms,ttft_p99@5<10s``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.accounting.metrics import RequestTable, exact_sum, weighted_percentiles
from penstock.errors import Problem, UserError, nearest
from penstock.recording.records import RunRecord
from penstock.units import NS_PER_MS, NS_PER_S, NS_PER_US, Int64Array
from penstock.workload.workload import Workload

METRICS = ("ttft", "tpot", "itl", "latency", "queuing")
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")
_UNITS_NS = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S, "min": 60 * NS_PER_S}
_BOUND = re.compile(
    r"\s*([a-z]+)[_\s]+([a-z0-9]+)(?:\s*@\s*(-?[0-9]{1,9}))?\s*<=?\s*([0-9.eE+]+)\s*([a-z]+)\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Bound:
    """``statistic`` of ``metric`` over a run is at most ``limit_ns``: of all requests, or of those of one
    ``priority``."""

    metric: str
    statistic: str
    limit_ns: int
    priority: int | None = None

    @property
    def name(self) -> str:
        """``ttft_p99``, ``ttft_p99@5``"""
        return name_of(self.series, self.statistic)

    @property
    def series(self) -> str:
        """The times that it bounds: ``ttft``, ``ttft@5``."""
        return self.metric if self.priority is None else f"{self.metric}@{self.priority}"

    def covers(self, priority: Int64Array) -> npt.NDArray[np.bool_]:
        """Whether it is on requests of these priorities, shape (requests,)."""
        return np.ones(len(priority), dtype=np.bool_) if self.priority is None else priority == self.priority

    def __str__(self) -> str:
        return f"{self.name}<{shown_ns(self.limit_ns)}"


@dataclass(frozen=True, slots=True)
class Slo:
    """All bounds must hold. A rejected request counts as one that took for ever."""

    bounds: tuple[Bound, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.bounds))

    @property
    def series(self) -> tuple[str, ...]:
        """All metrics, and those of one priority that it bounds."""
        return tuple(dict.fromkeys((*METRICS, *(bound.series for bound in self.bounds))))

    @property
    def has_gaps(self) -> bool:
        """Whether it bounds the times between tokens."""
        return any(bound.metric == "itl" for bound in self.bounds)

    def excess(self, values_ns: Sequence[float | None]) -> float:
        """The largest value over its limit, as a ratio: the SLO holds up to 1. A value that was not measured
        (None) is within any limit."""
        ratios = [
            value / bound.limit_ns
            for bound, value in zip(self.bounds, values_ns, strict=True)
            if value is not None
        ]
        return max(ratios, default=0.0)

    def worst(self, values_ns: Sequence[float | None]) -> Bound:
        """The bound that is exceeded most, or closest to being exceeded."""
        ratios = [
            -1.0 if value is None else value / bound.limit_ns
            for bound, value in zip(self.bounds, values_ns, strict=True)
        ]
        return self.bounds[max(range(len(ratios)), key=ratios.__getitem__)]


def name_of(series: str, statistic: str) -> str:
    """``ttft_p99`` of ``ttft``, ``ttft_p99@5`` of ``ttft@5``."""
    metric, at, priority = series.partition("@")
    return f"{metric}_{statistic}{at}{priority}"


def check_priorities(slo: Slo, workload: Workload, where: str = "--slo") -> None:
    """Whether there are requests of every priority that is bounded.

    Raises:
        UserError: the bounds that would be on nobody.
    """
    known = sorted(set(workload.priority.tolist()))
    problems = [
        Problem(
            where, f"'{bound}': no request has priority {bound.priority} ({', '.join(map(str, known[:8]))})"
        )
        for bound in slo.bounds
        if bound.priority is not None and bound.priority not in known
    ]
    if problems:
        raise UserError(problems)


def parse_slo(text: str, where: str = "--slo") -> Slo:
    """Read ``metric_statistic<limit,...``, limits with a unit (ns, us, ms, s, min); ``ttft p99 < 2 s`` is the same.
    ``metric_statistic@priority`` is of the requests of one priority.

    Raises:
        UserError: every part that is not a bound.
    """
    problems: list[Problem] = []
    bounds: list[Bound] = []
    for part in text.split(","):
        bound = _parse_bound(part, where, problems)
        if bound is not None:
            bounds.append(bound)
    names = [bound.name for bound in bounds]
    problems += [
        Problem(where, f"bounds {name} twice")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if problems:
        raise UserError(problems)
    return Slo(tuple(bounds))


def _parse_bound(part: str, where: str, problems: list[Problem]) -> Bound | None:
    match = _BOUND.fullmatch(part)
    if match is None:
        problems.append(Problem(where, f"'{part.strip()}' is not a bound: write ttft_p99<2s"))
        return None
    metric, statistic, number, unit = match[1].lower(), match[2].lower(), match[4], match[5].lower()
    for value, known, what in (
        (metric, METRICS, "metric"),
        (statistic, STATISTICS, "statistic"),
        (unit, tuple(_UNITS_NS), "unit"),
    ):
        if value not in known:
            hint = nearest(value, known)
            problems.append(
                Problem(where, f"'{part.strip()}': no {what} '{value}' ({', '.join(known)}){hint}")
            )
            return None
    try:
        limit = float(number) * _UNITS_NS[unit]
    except ValueError:
        limit = 0.0
    if not 1 <= limit < 2**62:
        problems.append(Problem(where, f"'{part.strip()}': the limit must be a positive time"))
        return None
    return Bound(metric, statistic, round(limit), None if match[3] is None else int(match[3]))


def statistics_ns(
    record: RunRecord, slo: Slo | None = None, priority: Int64Array | None = None
) -> Mapping[str, float | None]:
    """``ttft_p99`` and all the others of a run, in ns; infinity where rejected requests decide, None where
    nothing was measured. Those of one priority too that the SLO bounds: ``priority`` is by number of request."""
    table = RequestTable.of(record)
    index = table.column("request")
    lost = np.array([one.request for one in record.rejections], dtype=np.int64)
    values: dict[str, float | None] = {}
    times = times_ns(table)
    several = table.column("output_tokens") > 1
    for series in slo.series if slo else METRICS:
        metric, _, of = series.partition("@")
        if metric == "itl":
            gaps = _gaps_of(record, table, index, of, priority) if of else record.token_gaps
            found = _of_gaps(*gaps)
        else:
            chosen = several if metric == "tpot" else np.ones(len(table), dtype=np.bool_)
            rejected = len(lost)
            if of and priority is not None:
                chosen = chosen & (priority[index] == int(of))
                rejected = int((priority[lost] == int(of)).sum())
            found = _of_requests(times[metric][chosen], rejected)
        values.update({name_of(series, name): value for name, value in zip(STATISTICS, found, strict=True)})
    return values


def times_ns(table: RequestTable) -> Mapping[str, Int64Array]:
    """By metric, a time per request; not those between tokens."""
    return {
        "ttft": table.ttft_ns,
        "tpot": table.tpot_ns,
        "latency": table.latency_ns,
        "queuing": table.queuing_ns,
    }


def within_limits(table: RequestTable, slo: Slo | None, priority: Int64Array | None) -> npt.NDArray[np.bool_]:
    """Whether a request's own TTFT, TPOT, latency and queuing are within the limits, whatever the statistic that the
    SLO bounds, shape (requests,); token gaps are not looked at. ``priority`` is by number of request."""
    good = np.ones(len(table), dtype=np.bool_)
    times = times_ns(table)
    own = np.zeros(len(table), dtype=np.int64) if priority is None else priority[table.column("request")]
    for bound in slo.bounds if slo else ():
        if bound.metric in times:
            good &= (times[bound.metric] <= bound.limit_ns) | ~bound.covers(own)
    return good


def attained(record: RunRecord, slo: Slo, priority: Int64Array | None = None) -> float:
    """The share of all requests that are within the limits by themselves (:func:`within_limits`)."""
    total = len(record.requests) + len(record.rejections)
    good = within_limits(RequestTable.of(record), slo, priority)
    return float(good.sum()) / total if total else 0.0


def _gaps_of(
    record: RunRecord, table: RequestTable, index: Int64Array, of: str, priority: Int64Array | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Times between the tokens of requests of one priority, each counted once."""
    chosen = np.ones(len(table), dtype=np.bool_) if priority is None else priority[index] == int(of)
    rows = table.log_rows[chosen]
    gaps = [np.diff(record.requests.token_times_ns(int(row))) for row in rows]
    joined = np.concatenate([np.zeros(0, dtype=np.int64), *gaps])
    return joined, np.ones(len(joined), dtype=np.int64)


def _of_requests(times: npt.NDArray[np.int64], rejected: int) -> tuple[float | None, ...]:
    """In the order of STATISTICS."""
    if not len(times) + rejected:
        return (None,) * len(STATISTICS)
    if not rejected:
        p50, p90, p95, p99 = (float(value) for value in np.percentile(times, (50, 90, 95, 99)))
        return exact_sum(times) / len(times), p50, p90, p95, p99, float(times.max())
    ordered = np.sort(times)

    def higher(percent: float) -> float:
        place = math.ceil((len(ordered) + rejected - 1) * percent / 100)
        return float(ordered[place]) if place < len(ordered) else math.inf

    return math.inf, higher(50), higher(90), higher(95), higher(99), math.inf


def _of_gaps(gaps: npt.NDArray[np.int64], weights: npt.NDArray[np.int64]) -> tuple[float | None, ...]:
    kept = weights > 0
    gaps, weights = gaps[kept], weights[kept]
    if not len(gaps):
        return (None,) * len(STATISTICS)
    mean = exact_sum(gaps, weights) / int(weights.sum())
    return mean, *weighted_percentiles(gaps, weights, (50, 90, 95, 99)), float(gaps.max())


def shown_ns(value_ns: float | None) -> str:
    """``1.52 s``, ``48.3 ms``: three digits, in the unit that reads best."""
    if value_ns is None:
        return "none"
    if not math.isfinite(value_ns):
        return "never"
    for unit, scale in (("s", NS_PER_S), ("ms", NS_PER_MS), ("us", NS_PER_US)):
        if value_ns >= scale:
            return f"{float(f'{value_ns / scale:.3g}'):g} {unit}"
    return f"{value_ns:g} ns"
