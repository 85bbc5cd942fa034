"""The highest rate that holds an SLO: against brute force, and where there is none."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from penstock.explore.capacity import (
    Capacity,
    CapacityOptions,
    HopelessError,
    find_capacity,
    latency_curve,
    student_t_95,
)
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.offered_load import Arrivals, OfferedLoad
from penstock.explore.slo import parse_slo
from penstock.spec.load import load_cluster
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.workload import Workload

SLO = "ttft_p90<150ms,tpot_p90<25ms"


def workload(count: int = 150, outputs: str = "uniform:4,24") -> Workload:
    inputs = parse_lengths("lognormal:400,0.7", "")
    return generate(Recipe(num_requests=count, input_tokens=inputs, output_tokens=parse_lengths(outputs, "")))


def cluster(tp: int = 1, pp: int = 1, replicas: int = 1, **options: Any) -> Mapping[str, Any]:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": tp,
        "pp_size": pp,
        **options,
    }
    node = {"num_instances": replicas, "instances": [instance] * replicas}
    return {"num_nodes": 1, "link_bw": 64, "link_latency": 5000, "nodes": [node]}


def load_test(config: Mapping[str, Any], slo: str = SLO, requests: Workload | None = None) -> LoadTest:
    return LoadTest(load_cluster(config), OfferedLoad(requests or workload(), Arrivals()), parse_slo(slo))


def random_deployment(number: int) -> Mapping[str, Any]:
    rng = random.Random(number)
    pp = rng.choice([1, 2, 4])
    return cluster(
        tp=rng.choice([1, 2]),
        pp=pp,
        replicas=rng.choice([1, 2]),
        max_num_seqs=rng.choice([8, 16, 64]),
        max_num_batched_tokens=rng.choice([512, 2048]),
    )


def swept_edge(bench: LoadTest, seed: int, around: float) -> float:
    """Brute force: the last of the rates, 1% apart, before the first that breaks the SLO."""
    rates = around * 1.01 ** np.arange(-30, 31)
    held = 0.0
    for rate in rates.tolist():
        if not bench.try_rate(rate, seed).holds:
            break
        held = rate
    return held


@pytest.mark.parametrize("number", range(5))
def test_capacity_agrees_with_a_sweep_of_rates_within_its_confidence(number: int) -> None:
    bench = load_test(random_deployment(number))
    found = find_capacity(bench, CapacityOptions(seeds=5, tolerance=0.02), explain=False)
    assert len(found.edges) == 5
    fresh = [swept_edge(bench, seed, found.rate_per_s) for seed in range(100, 104)]
    mean = sum(fresh) / len(fresh)
    spread = student_t_95(len(fresh) - 1) * float(np.std(fresh, ddof=1)) / math.sqrt(len(fresh))
    # Two estimates of one mean, each with its own 95% interval, from different realisations.
    assert found.low_per_s <= mean + spread
    assert mean - spread <= found.high_per_s
    assert found.low_per_s <= found.rate_per_s <= found.high_per_s


def test_each_seeds_edge_is_a_rate_that_held_and_one_close_above_that_broke() -> None:
    bench = load_test(cluster(pp=2))
    found = find_capacity(bench, CapacityOptions(seeds=3, tolerance=0.02))
    assert len(found.edges) == 3
    for seed, edge in enumerate(found.edges):
        assert edge.held.holds
        assert not edge.broke.holds
        held, broke = edge.held.rate_per_s or 0.0, edge.broke.rate_per_s or 0.0
        assert held < broke <= held * 1.0201
        assert bench.try_rate(held, seed) == edge.held
        of_seed = [trial for trial in found.trials if trial.seed == seed and trial.rate_per_s is not None]
        below = [trial for trial in of_seed if (trial.rate_per_s or 0.0) <= held]
        assert all(trial.holds for trial in below)
        assert min(trial.rate_per_s or 0.0 for trial in below) <= 0.85 * held
    tried = [(trial.seed, trial.rate_per_s) for trial in found.trials]
    assert len(set(tried)) == len(tried)
    assert found.every_seed_per_s == min(edge.held.rate_per_s or 0.0 for edge in found.edges)


def test_later_seeds_share_the_work_of_the_first() -> None:
    found = find_capacity(load_test(cluster()), CapacityOptions(seeds=4, tolerance=0.02), explain=False)
    runs = [sum(trial.seed == seed for trial in found.trials) for seed in range(4)]
    assert sum(runs[1:]) < 3 * runs[0]


def test_a_guess_changes_the_way_and_not_the_answer() -> None:
    # Not to the digit: where percentiles jump, another way can find an earlier break.
    bench = load_test(cluster())
    plain = find_capacity(bench, CapacityOptions(seeds=1, tolerance=0.02), explain=False)
    for factor in (0.05, 0.9, 1.1, 20.0):
        options = CapacityOptions(seeds=1, tolerance=0.02, guess_per_s=plain.rate_per_s * factor)
        assert find_capacity(bench, options, explain=False).rate_per_s == pytest.approx(
            plain.rate_per_s, rel=0.1
        )


def test_more_replicas_serve_more_and_goodput_is_at_most_the_rate() -> None:
    one, two = (find_capacity(load_test(cluster(replicas=n)), CapacityOptions(seeds=1)) for n in (1, 2))
    assert two.rate_per_s > 1.5 * one.rate_per_s
    assert 0.85 * one.rate_per_s < one.goodput_per_s <= one.rate_per_s


def test_the_limiting_metric_and_its_cause_are_named() -> None:
    few_places = find_capacity(load_test(cluster(max_num_seqs=2), "ttft_p90<400ms"), CapacityOptions(seeds=1))
    assert few_places.bottleneck is not None
    assert few_places.bottleneck.metric == "ttft_p90"
    assert few_places.bottleneck.cause == "max_num_seqs"
    many = find_capacity(load_test(cluster(max_num_seqs=256), "ttft_p90<400ms"), CapacityOptions(seeds=1))
    assert many.bottleneck is not None
    assert many.bottleneck.cause == "compute"
    assert many.rate_per_s > few_places.rate_per_s
    few_blocks = find_capacity(
        load_test(cluster(num_gpu_blocks=190), "ttft_p90<400ms"), CapacityOptions(seeds=1)
    )
    assert few_blocks.bottleneck is not None
    assert few_blocks.bottleneck.cause == "kv memory"


def test_the_time_of_every_stage_is_accounted_for_at_the_edge() -> None:
    found = find_capacity(load_test(cluster(pp=4)), CapacityOptions(seeds=1))
    assert found.bottleneck is not None
    assert [stage["stage"] for stage in found.bottleneck.stages] == [0, 1, 2, 3]
    for stage in found.bottleneck.stages:
        assert sum(
            share for name, share in stage.items() if name not in ("instance", "stage")
        ) == pytest.approx(1)


def test_an_slo_that_even_a_burst_keeps_has_no_edge() -> None:
    found = find_capacity(load_test(cluster(), "latency_p99<10min"), CapacityOptions(seeds=3))
    assert found.edges == ()
    assert found.high_per_s == math.inf
    assert len(found.trials) == 1
    guessed = find_capacity(
        load_test(cluster(), "latency_p99<10min"), CapacityOptions(seeds=2, guess_per_s=1.0)
    )
    assert guessed.edges == ()
    assert guessed.rate_per_s == found.rate_per_s


@pytest.mark.parametrize("slo", ["ttft_p50<1us", "tpot_p99<1us", "ttft_p99<2s,itl_max<10us"])
def test_an_impossible_slo_is_refused_with_what_it_would_take(slo: str) -> None:
    with pytest.raises(HopelessError, match=r"cannot hold at any rate.*the limit"):
        find_capacity(load_test(cluster(), slo), CapacityOptions())


def test_requests_that_cannot_run_make_an_slo_impossible() -> None:
    tight = cluster(max_model_len=300)
    with pytest.raises(HopelessError, match="rejected"):
        find_capacity(load_test(tight, "ttft_p99<60s"), CapacityOptions(seeds=1))
    with pytest.raises(HopelessError, match="every request is rejected"):
        find_capacity(load_test(cluster(max_model_len=2), "ttft_p99<60s"), CapacityOptions(seeds=1))


def test_the_curve_rises_through_the_capacity() -> None:
    bench = load_test(cluster())
    found: Capacity = find_capacity(bench, CapacityOptions(seeds=1), explain=False)
    curve: list[Trial] = latency_curve(bench, found, 8)
    assert len(curve) == 8
    assert curve[0].holds
    assert not curve[-1].holds
    assert curve[0].rate_per_s == pytest.approx(found.rate_per_s / 10, rel=1e-3)


def test_students_t() -> None:
    assert [student_t_95(n) for n in (1, 4, 10)] == [12.706, 2.776, 2.228]
    assert student_t_95(12) == 2.228  # from above between the entries
    assert student_t_95(1000) == 2.0
