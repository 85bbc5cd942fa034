"""Energy of whole runs: cases that a pocket calculator gives, and sums that must agree on any workload."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.accounting.test_energy import config

from penstock.accounting.energy_report import EnergyReport
from penstock.api import simulate
from penstock.rendering.result import SimulationResult
from penstock.units import NS_PER_S
from penstock.workload.workload import Workload

KV_BYTES_PER_TOKEN = 2 * 32 * 8 * 128 * 2
"""Of Llama-3.1-8B: keys and values, 32 layers, 8 heads of 128, two bytes each."""

IDLE_W, STANDBY_W, ACTIVE_W = 35, 300, 600


def workload(requests: list[tuple[int, int, int]]) -> Workload:
    """(arrival in ns, prompt, answer) of each."""
    arrivals, prompts, answers = (list(column) for column in zip(*requests, strict=True))
    return Workload.from_columns(arrivals, prompts, answers, "test")


def energy_of(result: SimulationResult) -> EnergyReport:
    assert result.energy is not None
    return result.energy


def test_an_instance_that_nobody_asks_draws_idle_power() -> None:
    energy = energy_of(simulate(config(instances=2), workload([(0, 64, 8)])))
    window_s = (energy.end_ns - energy.begin_ns) / NS_PER_S
    worked, idle = energy.instances
    assert (worked.active_ns > 0, idle.active_ns, idle.standby_ns) == (True, 0, 0)
    assert idle.npu_j == pytest.approx(IDLE_W * window_s)


def test_one_step_draws_active_power_for_its_time() -> None:
    # One token is one step: what is not active comes after it, on standby.
    energy = energy_of(simulate(config(), workload([(0, 64, 1)])))
    (one,) = energy.instances
    rest_s = (energy.end_ns - energy.begin_ns - one.active_ns) / NS_PER_S
    assert one.idle_ns + one.standby_ns == energy.end_ns - energy.begin_ns - one.active_ns
    assert IDLE_W * rest_s <= one.npu_j - ACTIVE_W * one.active_ns / NS_PER_S <= STANDBY_W * rest_s + 1e-9


@pytest.mark.parametrize("tp_size", [1, 2])
def test_each_stage_of_a_pipeline_draws_for_its_own_times(tp_size: int) -> None:
    requests = [(0, 200, 6), (40_000_000, 90, 4), (30 * NS_PER_S, 50, 3)]
    result = simulate(config(tp_size=tp_size, pp_size=2), workload(requests), record="stages")
    energy = energy_of(result)
    joules = 0.0
    for stage in range(2):
        spans = result.stages.filter(stage=stage)
        begin, end = spans["start_ns"].to_numpy(), spans["end_ns"].to_numpy()
        ran = end > begin
        begin, end = begin[ran], end[ran]
        busy = int((end - begin).sum())
        after = np.append(begin[1:], energy.end_ns) - end
        standby = int(np.minimum(after, 18 * NS_PER_S).sum())
        idle = energy.end_ns - energy.begin_ns - busy - standby
        assert idle > 11 * NS_PER_S  # the NPUs slept between the second request and the third
        joules += tp_size * (ACTIVE_W * busy + STANDBY_W * standby + IDLE_W * idle) / NS_PER_S
    assert energy.components_j["npu"] == pytest.approx(joules, rel=1e-9)


def test_kv_between_instances_draws_by_its_bits() -> None:
    apart = config(instances=2)
    first, second = apart["nodes"][0]["instances"]
    apart["nodes"][0]["instances"] = [{**first, "pd_type": "prefill"}, {**second, "pd_type": "decode"}]
    energy = energy_of(simulate(apart, workload([(0, 160, 8)])))
    window_s = (energy.end_ns - energy.begin_ns) / NS_PER_S
    moved_j = 160 * KV_BYTES_PER_TOKEN * 8 * 4.0e-12
    assert energy.components_j["link"] == pytest.approx(5 * window_s + moved_j, rel=1e-9)


SHAPES: list[dict[str, Any]] = [
    {},
    {"tp_size": 2, "pp_size": 2, "max_num_seqs": 2},
    {"instances": 3},
    {"instances": 2, "power": None},
    {"pp_size": 4, "max_num_seqs": 8, "max_num_batched_tokens": 64},
    {"num_gpu_blocks": 40},
    {"placement": {"default": {"weights": "cpu"}}},
]
REQUEST = st.tuples(st.integers(0, 60 * NS_PER_S), st.integers(1, 300), st.integers(1, 40))


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
@settings(max_examples=6, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=8))
def test_components_requests_and_integral_agree(
    shape: dict[str, Any], requests: list[tuple[int, int, int]]
) -> None:
    energy = energy_of(simulate(config(**shape), workload(sorted(requests))))
    total = energy.total_j
    assert sum(energy.components_j.values()) == pytest.approx(total, rel=1e-12)
    seconds = np.diff(energy.edges_ns) / NS_PER_S
    integral = sum(float((np.array(watts) * seconds).sum()) for watts in energy.watts.values())
    assert integral == pytest.approx(total, rel=1e-9)
    assert energy.requests_j is not None
    assert energy.unassigned_j is not None
    assert energy.requests_j.sum() + energy.unassigned_j == pytest.approx(total, rel=1e-9)
    window_ns = energy.end_ns - energy.begin_ns
    for one in energy.instances:
        states = (one.active_ns, one.standby_ns, one.idle_ns)
        assert min(states) >= 0
        assert sum(states) % max(window_ns, 1) == 0
