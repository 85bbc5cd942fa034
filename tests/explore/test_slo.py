"""SLOs: reading them, and what they make of a run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.errors import UserError
from penstock.explore.slo import (
    Bound,
    Slo,
    attained,
    check_priorities,
    parse_slo,
    shown_ns,
    statistics_ns,
)
from penstock.recording.records import Rejection, RequestLog, RunRecord
from penstock.workload.workload import Call, Columns, Workload


def record(ttft_ms: list[int], tpot_ms: int = 10, rejected: int = 0) -> RunRecord:
    """Requests of three tokens that arrive at 0."""
    log = RequestLog(keep_token_times=False)
    for index, ttft in enumerate(ttft_ms):
        first = ttft * 1_000_000
        log.append((index, 0, 5, 3, 0, first // 2, first, first + 2 * tpot_ms * 1_000_000, 0, 0), ())
    gaps = np.array([tpot_ms * 1_000_000], dtype=np.int64), np.array([2 * len(ttft_ms)], dtype=np.int64)
    refused = tuple(Rejection(len(ttft_ms) + k, 0, 0, 1, 1, "too long") for k in range(rejected))
    return RunRecord((), log, refused, (), gaps, 0, 10**9)


def test_bounds_are_read_with_their_units() -> None:
    slo = parse_slo(" ttft_p99 < 2s, TPOT_mean<=50 ms,itl_max<1500us ")
    assert slo.bounds == (
        Bound("ttft", "p99", 2_000_000_000),
        Bound("tpot", "mean", 50_000_000),
        Bound("itl", "max", 1_500_000),
    )
    assert parse_slo(str(slo).replace(" ", "")) == slo


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        parse_slo("tfft_p99<2s,ttft_p98<2s,ttft_p50<2 years,tpot_p50<0s,nonsense,itl_p50<1s,itl_p50<2s")
    text = str(error.value)
    assert len(error.value.problems) == 6
    for words in (
        "did you mean 'ttft'",
        "no statistic 'p98'",
        "no unit 'years'",
        "positive time",
        "nonsense",
        "twice",
    ):
        assert words in text


def test_statistics_are_those_of_the_run() -> None:
    values = statistics_ns(record([100, 200, 300, 400]))
    assert values["ttft_mean"] == 250e6
    assert values["ttft_p50"] == 250e6
    assert values["ttft_max"] == 400e6
    assert values["queuing_p50"] == 125e6
    assert values["tpot_p99"] == 10e6
    assert values["itl_max"] == 10e6


def test_rejected_requests_take_for_ever() -> None:
    values = statistics_ns(record([100] * 98, rejected=2))
    assert values["ttft_p50"] == 100e6
    assert values["ttft_p99"] == math.inf
    assert values["ttft_mean"] == math.inf
    assert statistics_ns(record([100] * 1000, rejected=1))["ttft_p99"] == 100e6


def test_an_slo_holds_up_to_its_limits() -> None:
    slo = parse_slo("ttft_max<200ms,tpot_max<10ms")
    values = statistics_ns(record([100, 200]))
    within = [values[bound.name] for bound in slo.bounds]
    assert slo.excess(within) == 1.0
    late = [statistics_ns(record([100, 300]))[bound.name] for bound in slo.bounds]
    assert slo.excess(late) == 1.5
    assert slo.worst(late).name == "ttft_max"
    assert Slo(slo.bounds).excess([None, None]) == 0.0


def test_goodput_counts_requests_within_all_limits() -> None:
    slo = parse_slo("ttft_p50<150ms,tpot_p99<50ms,itl_max<1us")
    assert attained(record([100, 150, 151, 400]), slo) == 0.5
    assert attained(record([100], rejected=3), slo) == 0.25


def test_a_bound_may_be_on_one_priority() -> None:
    slo = parse_slo("ttft_p99@0<150ms, ttft max @ 5 < 10 s,tpot_p50<50ms")
    assert str(slo) == "ttft_p99@0<150 ms,ttft_max@5<10 s,tpot_p50<50 ms"
    assert parse_slo(str(slo)) == slo
    priority = np.array([0, 5, 0, 5, 5])
    run = record([100, 20_000, 140, 300], rejected=1)
    values = statistics_ns(run, slo, priority)
    assert values["ttft_max@0"] == 140e6
    assert values["ttft_p50@5"] == 20_000e6
    assert values["ttft_max@5"] == math.inf
    assert values["ttft_p50"] == 300e6
    # The second is too late for its own bound, the last was rejected; the fourth's has nothing to do with 150 ms.
    assert attained(run, slo, priority) == 0.6


def test_a_bound_on_nobody_is_refused() -> None:
    columns = Columns()
    for priority in (0, 5):
        columns.add(0, Call(5, 5, priority=priority))
    workload = Workload(columns, "test")
    check_priorities(parse_slo("ttft_p99@5<1s,ttft_p99@0<2s,tpot_p50<1s"), workload)
    with pytest.raises(UserError, match=r"'ttft_p99@4<1 s': no request has priority 4 \(0, 5\)"):
        check_priorities(parse_slo("ttft_p99@4<1s"), workload)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.5e9, "1.5 s"), (48_321_000, "48.3 ms"), (2_000, "2 us"), (7, "7 ns"), (math.inf, "never")],
)
def test_times_are_shown_in_the_unit_that_reads_best(value: float, text: str) -> None:
    assert shown_ns(value) == text
