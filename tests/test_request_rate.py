"""Arrivals as a benchmark client makes them, in place of the dataset's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import penstock

CLUSTER = "configs/cluster/single_node_pp_instance.json"
TRACE = "workloads/example_trace.jsonl"


@pytest.fixture(autouse=True)
def at_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


def test_all_at_once_with_a_limit_is_a_closed_loop() -> None:
    requests = penstock.simulate(
        CLUSTER, TRACE, request_rate=float("inf"), max_concurrency=4, record="requests"
    ).requests
    arrival, finish = requests["arrival_ns"].to_numpy(), requests["finish_ns"].to_numpy()
    assert (arrival == 0).sum() == 4
    assert max(int(((arrival <= at) & (at < finish)).sum()) for at in arrival) == 4
    assert set(arrival[arrival > 0]) <= set(finish)


def test_a_rate_draws_poisson_arrivals_by_the_seed() -> None:
    def arrivals(**options: float) -> np.ndarray:
        return (
            penstock.simulate(CLUSTER, TRACE, record="requests", **options).requests["arrival_ns"].to_numpy()
        )  # pyright: ignore

    slow, fast = arrivals(request_rate=5.0), arrivals(request_rate=10.0)
    assert np.allclose(slow, 2 * fast, atol=2)
    assert np.diff(np.sort(slow)).mean() == pytest.approx(0.2e9, rel=0.3)
    assert not np.array_equal(slow, arrivals(request_rate=5.0, seed=1))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(penstock.UserError, match="request_rate"):
        penstock.simulate(CLUSTER, TRACE, request_rate=rate)
