"""A deployment that serves one request at a time is a queue of one server, whose mean wait is known in closed form."""

from __future__ import annotations

from typing import Any

import pytest

from both_ways import needs_core
from penstock.explore.load_test import LoadTest
from penstock.explore.slo import parse_slo
from penstock.explore.steady_state import FloatArray, SteadyState
from penstock.spec.load import load_cluster
from penstock.units import NS_PER_S
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.offered_load import Arrivals, OfferedLoad

LOAD = 0.5
REQUESTS = 4_000
INSTANCE: dict[str, Any] = {
    "model_name": "meta-llama/Llama-3.1-8B",
    "hardware": "H100",
    "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
    "max_num_seqs": 1,
    "tp_size": 1,
    "engine_overhead": "none",
}
CLUSTER = {
    "num_nodes": 1,
    "link_bw": 64,
    "link_latency": 0,
    "nodes": [{"num_instances": 1, "instances": [INSTANCE]}],
}


def one_at_a_time(inputs: str, outputs: str, arrivals: str) -> LoadTest:
    recipe = Recipe(
        num_requests=REQUESTS,
        input_tokens=parse_lengths(inputs, ""),
        output_tokens=parse_lengths(outputs, ""),
    )
    load = OfferedLoad(generate(recipe), Arrivals(arrivals), recipe)
    return LoadTest(load_cluster(CLUSTER), load, parse_slo("queuing_mean<1s"))


def service_s(inputs: str, outputs: str) -> FloatArray:
    """Of requests that come so far apart that none waits."""
    run = one_at_a_time(inputs, outputs, "constant").run_at(0.01, 0, 100_000)[1]
    assert run is not None
    assert not run.times_ns["queuing"].any()
    return run.times_ns["latency"] / NS_PER_S


@needs_core
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [("fixed:300", "fixed:8"), ("lognormal:400,0.8", "uniform:2,40")],
    ids=["M/D/1", "M/G/1"],
)
def test_its_mean_wait_lies_within_93_of_100_intervals(inputs: str, outputs: str) -> None:
    bench = one_at_a_time(inputs, outputs, "poisson")
    service = service_s(inputs, outputs)
    rate = LOAD / float(service.mean())
    # Pollaczek and Khinchine's.
    expected_ns = rate * float((service**2).mean()) / (2 * (1 - LOAD)) * NS_PER_S
    held = 0
    for seed in range(100):
        run = bench.run_at(rate, seed, REQUESTS)[1]
        assert run is not None
        held += expected_ns in SteadyState(rate, (run,), bench.slo).bounds_ns["queuing_mean"]
    assert held >= 93
