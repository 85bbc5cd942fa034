from __future__ import annotations

import numpy as np
from fake_records import fake_record
from hypothesis import given
from hypothesis import strategies as st

from penstock.accounting.metrics import (
    RequestTable,
    distribution,
    exact_sum,
    latency_metrics,
    percentiles,
    throughput,
    weighted_distribution,
    weighted_percentiles,
)

PERCENTS = (0, 1, 12.5, 50, 90, 95, 99, 99.9, 100)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(1, 40)), min_size=1, max_size=60))
def test_weighted_percentiles_equal_numpys_on_the_expanded_multiset(pairs: list[tuple[int, int]]):
    values, weights = ints([pair[0] for pair in pairs]), ints([pair[1] for pair in pairs])
    expanded = np.repeat(values, weights)
    expected = tuple(np.percentile(expanded, PERCENTS))
    assert weighted_percentiles(values, weights, PERCENTS) == expected
    assert percentiles(expanded, PERCENTS) == expected
    assert weighted_distribution(values, weights) == distribution(expanded)


def test_zero_weights_do_not_count_and_nothing_gives_none():
    assert weighted_distribution(ints([5, 7]), ints([0, 2])) == distribution(ints([7, 7]))
    assert weighted_distribution(ints([5]), ints([0])) is None
    assert distribution(ints([])) is None


def test_sums_beyond_64_bits_are_exact():
    large = 2**62 - 1
    assert exact_sum(ints([large] * 8)) == 8 * large
    assert exact_sum(ints([large, 3]), ints([1000, 2])) == 1000 * large + 6
    assert exact_sum(ints([-5, 3])) == -2


def test_metrics_are_what_the_timestamps_say():
    record = fake_record([[50, 60, 75, 99], [40], [30, 45]], [10, 20, 25])
    table = RequestTable.of(record)
    assert table.column("request").tolist() == [0, 1, 2]
    assert table.ttft_ns.tolist() == [40, 20, 5]
    assert table.latency_ns.tolist() == [89, 20, 20]
    assert table.queuing_ns.tolist() == [1, 1, 1]
    assert table.tpot_ns.tolist() == [49 // 3, 0, 15]
    metrics = latency_metrics(table, record.token_gaps)
    assert metrics.itl == distribution(ints([10, 15, 24, 15]))
    assert metrics.tpot is not None
    assert metrics.tpot.count == 2  # a single token has no time per output token
    assert metrics.latency is not None
    assert metrics.latency.mean_ns == 43.0


def test_throughput_runs_from_first_arrival_to_last_completion():
    second = 1_000_000_000
    record = fake_record([[2 * second, 3 * second], [5 * second]], [second, 2 * second])
    rates = throughput(RequestTable.of(record), record.first_arrival_ns)
    assert rates is not None
    assert rates.window_ns == 4 * second
    assert (rates.requests_per_s, rates.prompt_tokens_per_s) == (0.5, 201 / 4)
    assert rates.generated_tokens_per_s == 0.75
    assert throughput(RequestTable.of(fake_record([], [])), 0) is None
