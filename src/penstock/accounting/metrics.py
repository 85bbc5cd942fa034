"""Latency metrics, each defined by timestamps of the request log, and their distributions.

======== ==================================================== ===============================
metric   definition                                           counted over
======== ==================================================== ===============================
latency  finish - arrival                                     finished requests
queuing  first scheduled - arrival                            finished requests
TTFT     first token - arrival                                finished requests
TPOT     (latency - TTFT) // (output tokens - 1)              those of two tokens or more
ITL      time between two consecutive tokens of a request     all such gaps of all requests
======== ==================================================== ===============================

A token's time is when the engine takes it from the last stage. Percentiles interpolate linearly between the
two nearest values, as ``numpy.percentile`` does by default. Means are exact sums divided once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.recording.records import REQUEST_COLUMNS, Int64Array, RunRecord
from penstock.statistics.percentiles import between
from penstock.units import NS_PER_S

_SUMMED_AT_ONCE = 1 << 20
_RANGE_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Of ``count`` values, nanoseconds. Without values, None stands for the distribution instead."""

    count: int
    mean_ns: float
    min_ns: int
    p50_ns: float
    p90_ns: float
    p95_ns: float
    p99_ns: float
    max_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Rates over the window from the first arrival to the last completion. Prompt and generated tokens are
    those of finished requests; tokens computed again after a preemption do not count."""

    window_ns: int
    requests_per_s: float
    prompt_tokens_per_s: float
    generated_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyMetrics:
    """The five distributions; None where nothing was measured."""

    ttft: Distribution | None
    tpot: Distribution | None
    itl: Distribution | None
    latency: Distribution | None
    queuing: Distribution | None


@dataclass(frozen=True, slots=True)
class RequestTable:
    """The finished requests in file order, each column of shape (requests,); ``log_rows`` says where each
    stands in the log."""

    values: Int64Array
    log_rows: Int64Array

    @classmethod
    def of(cls, record: RunRecord) -> RequestTable:
        """From the log, which is in order of finishing."""
        values = record.requests.values()
        log_rows = np.argsort(values[:, 0], kind="stable")
        return cls(values[log_rows], log_rows)

    def column(self, name: str) -> Int64Array:
        """A column of REQUEST_COLUMNS."""
        return self.values[:, REQUEST_COLUMNS.index(name)]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def latency_ns(self) -> Int64Array:
        """finish - arrival"""
        return self.column("finish_ns") - self.column("arrival_ns")

    @property
    def queuing_ns(self) -> Int64Array:
        """first scheduled - arrival"""
        return self.column("first_scheduled_ns") - self.column("arrival_ns")

    @property
    def ttft_ns(self) -> Int64Array:
        """first token - arrival"""
        return self.column("first_token_ns") - self.column("arrival_ns")

    @property
    def tpot_ns(self) -> Int64Array:
        """(latency - TTFT) // (output - 1); 0 for one token"""
        return (self.latency_ns - self.ttft_ns) // np.maximum(self.column("output_tokens") - 1, 1)


def distribution(values: Int64Array) -> Distribution | None:
    """Of plain values, shape (n,), nanoseconds."""
    if not len(values):
        return None
    p50, p90, p95, p99 = percentiles(values, (50, 90, 95, 99))
    return Distribution(
        count=len(values),
        mean_ns=exact_sum(values) / len(values),
        min_ns=int(values.min()),
        p50_ns=p50,
        p90_ns=p90,
        p95_ns=p95,
        p99_ns=p99,
        max_ns=int(values.max()),
    )


def weighted_distribution(values: Int64Array, weights: Int64Array) -> Distribution | None:
    """Of the multiset in which ``values[i]`` stands ``weights[i]`` times; any order, repeats allowed."""
    kept = weights > 0
    if not kept.all():
        values, weights = values[kept], weights[kept]
    if not len(values):
        return None
    p50, p90, p95, p99 = weighted_percentiles(values, weights, (50, 90, 95, 99))
    count = int(weights.sum())
    return Distribution(
        count=count,
        mean_ns=exact_sum(values, weights) / count,
        min_ns=int(values.min()),
        p50_ns=p50,
        p90_ns=p90,
        p95_ns=p95,
        p99_ns=p99,
        max_ns=int(values.max()),
    )


def percentiles(values: Int64Array, percents: Sequence[float]) -> tuple[float, ...]:
    """``numpy.percentile(values, percents)`` to the bit; that one imports NumPy's masked arrays first."""
    return _interpolated(len(values), percents, lambda wanted: np.partition(values, wanted)[wanted].tolist())


def weighted_percentiles(
    values: Int64Array, weights: Int64Array, percents: Sequence[float]
) -> tuple[float, ...]:
    """``numpy.percentile(numpy.repeat(values, weights), percents)`` to the bit, without the repeat.

    ``weights`` are positive counts.
    """
    count = int(weights.sum())
    return _interpolated(count, percents, lambda wanted: _in_order(values, weights, wanted))


def _interpolated(
    count: int, percents: Sequence[float], in_order: Callable[[list[int]], list[int]]
) -> tuple[float, ...]:
    """Percentiles of ``count`` values; ``in_order`` says which ones stand at places of their order."""
    places = [(count - 1) * (percent / 100) for percent in percents]
    wanted = sorted({min(int(place) + up, count - 1) for place in places for up in (0, 1)})
    at = dict(zip(wanted, in_order(wanted), strict=True))
    result: list[float] = []
    for place in places:
        below = int(place)
        result.append(between(at[below], at[min(below + 1, count - 1)], place - below))
    return tuple(result)


def _in_order(values: Int64Array, weights: Int64Array, places: Sequence[int]) -> list[int]:
    """What stands at the places of the sorted multiset. Values are counted by equal ranges first, and only those in the
    ranges asked for are sorted: there are as many values as a run has turns."""
    low = int(values.min())
    shift = max((int(values.max()) - low).bit_length() - _RANGE_BITS, 0)
    in_range = np.zeros(1 << _RANGE_BITS, dtype=np.int64)
    for first in range(0, len(values), _SUMMED_AT_ONCE):
        part = slice(first, first + _SUMMED_AT_ONCE)
        np.add.at(in_range, (values[part] - low) >> shift, weights[part])
    until = np.cumsum(in_range)
    ranges = np.searchsorted(until, places, side="right")
    asked = np.zeros(len(in_range), dtype=np.bool_)
    asked[ranges] = True
    kept: list[tuple[Int64Array, Int64Array]] = []
    for first in range(0, len(values), _SUMMED_AT_ONCE):
        part = slice(first, first + _SUMMED_AT_ONCE)
        inside = asked[(values[part] - low) >> shift]
        kept.append((values[part][inside], weights[part][inside]))
    some, of_each = (np.concatenate(columns) for columns in zip(*kept, strict=True))
    order = np.argsort(some, kind="stable")
    some, last = some[order], np.cumsum(of_each[order])
    # What stands before a range that is asked for, and in no other such range.
    before = until - np.cumsum(np.where(asked, in_range, 0))
    found = np.searchsorted(last, np.asarray(places) - before[ranges], side="right")
    return some[found].tolist()


def exact_sum(values: npt.NDArray[np.int64], weights: npt.NDArray[np.int64] | None = None) -> int:
    """The sum (weighted by counts) as a Python int: no overflow where 64 bits would not hold it."""
    total = 0
    for first in range(0, len(values), _SUMMED_AT_ONCE):
        part = values[first : first + _SUMMED_AT_ONCE]
        high, low = part >> 24, part & 0xFFFFFF
        if weights is None:
            total += (int(high.sum()) << 24) + int(low.sum())
        else:
            counts = weights[first : first + _SUMMED_AT_ONCE]
            total += (int(np.dot(high, counts)) << 24) + int(np.dot(low, counts))
    return total


def latency_metrics(table: RequestTable, token_gaps: tuple[Int64Array, Int64Array]) -> LatencyMetrics:
    """All distributions of a run; ``token_gaps`` as in :class:`RunRecord`."""
    return LatencyMetrics(
        ttft=distribution(table.ttft_ns),
        tpot=distribution(table.tpot_ns[table.column("output_tokens") > 1]),
        itl=weighted_distribution(*token_gaps),
        latency=distribution(table.latency_ns),
        queuing=distribution(table.queuing_ns),
    )


def throughput(table: RequestTable, first_arrival_ns: int) -> Throughput | None:
    """None if nothing finished or the window is empty."""
    window_ns = int(table.column("finish_ns").max()) - first_arrival_ns if len(table) else 0
    if window_ns <= 0:
        return None
    per_s = NS_PER_S / window_ns
    return Throughput(
        window_ns=window_ns,
        requests_per_s=len(table) * per_s,
        prompt_tokens_per_s=exact_sum(table.column("input_tokens")) * per_s,
        generated_tokens_per_s=exact_sum(table.column("output_tokens")) * per_s,
    )
