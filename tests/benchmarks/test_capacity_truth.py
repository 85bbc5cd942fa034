"""Capacities of random deployments from runs of at most 2,000 requests, beside those of 100,000."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.capacity_truth import LONG, OPTIONS, SHORT, deployment

from both_ways import needs_core
from penstock.explore.capacity import find_capacity
from penstock.explore.steady_state import SteadyState

EDGES_PER_S = {1: 78.68, 4: 74.331, 6: 52.25, 9: 16.046, 12: 48.162}
"""Requests/s, found to half a per cent by ``python -m benchmarks.capacity_truth``. Of its twenty deployments the five
whose answers take the least time."""


@pytest.mark.parametrize("number", EDGES_PER_S)
def test_the_interval_from_short_runs_holds_the_capacity_of_long_ones(number: int) -> None:
    found = find_capacity(deployment(number), OPTIONS, explain=False)
    assert found.requests <= SHORT
    assert found.low_per_s <= EDGES_PER_S[number] <= found.high_per_s


@needs_core
@pytest.mark.parametrize("number", EDGES_PER_S)
def test_long_runs_have_their_edge_there(number: int) -> None:
    load_test = deployment(number)

    def holds(rate_per_s: float) -> bool:
        run = load_test.run_at(rate_per_s, 0, LONG)[1]
        assert run is not None
        return SteadyState(rate_per_s, (run,), load_test.slo).holds

    assert holds(0.99 * EDGES_PER_S[number])
    assert not holds(1.01 * EDGES_PER_S[number])
