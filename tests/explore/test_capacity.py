"""The highest rate that holds an SLO: against brute force, and where there is none."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import pytest

from penstock.explore.capacity import (
    Capacity,
    CapacityOptions,
    HopelessError,
    find_capacity,
    latency_curve,
)
from penstock.explore.hold import hold_rate
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.slo import parse_slo
from penstock.explore.steady_state import SteadyState
from penstock.spec.load import load_cluster
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.mix import Part, mixed
from penstock.workload.offered_load import Arrivals, OfferedLoad
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


QUICK = CapacityOptions(seeds=2, tolerance=0.1, requests=400, max_requests=800)


@pytest.mark.parametrize("number", [0, 3])
def test_the_interval_holds_the_capacity_of_other_and_longer_realisations(number: int) -> None:
    bench = load_test(random_deployment(number))
    found = find_capacity(bench, QUICK, explain=False)
    assert found.held is not None
    assert found.broke is not None
    assert found.low_per_s <= found.rate_per_s < found.broke.rate_per_s <= found.high_per_s

    def excess(rate: float) -> float:
        run = bench.run_at(rate, 50, 4000)[1]
        assert run is not None
        return SteadyState(rate, (run,), bench.slo).excess

    assert excess(found.low_per_s) <= 1
    assert excess(found.high_per_s) > 1


def test_a_rate_that_holds_lies_close_below_one_that_breaks_and_none_is_run_twice() -> None:
    bench = load_test(cluster(pp=2))
    found = find_capacity(bench, QUICK)
    assert found.held is not None
    assert found.broke is not None
    assert found.held.holds
    assert not found.broke.holds
    assert found.broke.rate_per_s <= found.held.rate_per_s * (1 + QUICK.tolerance / 4 + 1e-3)
    tried = [(trial.seed, trial.rate_per_s, trial.requests) for trial in found.trials]
    assert len(set(tried)) == len(tried)
    again = bench.try_rate(found.held.rate_per_s, 0, found.requests)
    assert again in found.trials


def test_runs_are_made_longer_until_the_interval_is_narrow_or_it_is_said_why_not() -> None:
    bench = load_test(cluster())
    short = find_capacity(bench, QUICK, explain=False)
    assert short.requests == 800
    assert short.relative_width > QUICK.tolerance
    assert "800 requests, the most allowed" in (short.why_wide or "")
    wide = CapacityOptions(seeds=2, tolerance=0.5, requests=400, max_requests=800)
    enough = find_capacity(bench, wide, explain=False)
    assert enough.why_wide is None
    assert enough.relative_width <= 0.5


def test_a_guess_changes_the_way_and_not_the_answer() -> None:
    bench = load_test(cluster())
    plain = find_capacity(bench, QUICK, explain=False)
    for factor in (0.1, 10.0):
        options = CapacityOptions(
            seeds=2, tolerance=0.1, requests=400, max_requests=800, guess_per_s=plain.rate_per_s * factor
        )
        assert find_capacity(bench, options, explain=False).rate_per_s == pytest.approx(
            plain.rate_per_s, rel=0.05
        )


def test_the_length_of_the_workload_does_not_matter() -> None:
    # Sixty requests are over before the engine is full: they come again, shuffled, as often as it takes.
    few, many = (load_test(cluster(max_num_seqs=16), requests=workload(count)) for count in (60, 800))
    one, other = (find_capacity(bench, QUICK, explain=False) for bench in (few, many))
    assert one.low_per_s <= other.high_per_s
    assert other.low_per_s <= one.high_per_s
    assert "60 of the workload" in few.offered_load.how(one.requests)
    assert one.saturated_per_s == pytest.approx(other.saturated_per_s, rel=0.1)


def test_without_a_bound_on_waiting_the_queue_decides() -> None:
    bench = load_test(cluster(max_num_seqs=16), "tpot_p99<10s")
    found = find_capacity(bench, QUICK, explain=False)
    assert found.broke is not None
    assert found.broke.worst == "queue"
    assert found.saturated_per_s is not None
    assert found.rate_per_s == pytest.approx(found.saturated_per_s, rel=0.1)


@pytest.mark.parametrize(("share", "holds"), [(0.5, True), (1.5, False)])
def test_one_rate_can_be_asked_for(share: float, holds: bool) -> None:
    bench = load_test(cluster(max_num_seqs=16))
    capacity = find_capacity(bench, QUICK, explain=False).rate_per_s
    found = hold_rate(bench, share * capacity, QUICK, explain=False)
    assert (found.held is not None) is holds
    assert (found.broke is None) is holds


def test_each_priority_of_a_mix_can_have_bounds_of_its_own() -> None:
    plain = workload(300)
    parts = [Part(plain, 0.5, priority=0), Part(plain, 0.5, priority=5)]
    mix = mixed(parts, [0] * 300)
    config = cluster(max_num_seqs=8, scheduling_policy="priority")
    bounds = ("ttft_p90@0<400ms", "ttft_p90@5<400ms", "ttft_p90@0<400ms,ttft_p90@5<20s", "ttft_p90<400ms")
    urgent, patient, both, all_alike = (
        find_capacity(load_test(config, slo, mix), QUICK, explain=False) for slo in bounds
    )
    # The urgent are hardly held up by the others, whose bound is met at lower rates only.
    assert urgent.rate_per_s > 1.05 * patient.rate_per_s
    assert patient.rate_per_s <= all_alike.rate_per_s <= urgent.rate_per_s
    assert both.broke is not None
    assert both.broke.worst in ("ttft_p90@0", "ttft_p90@5", "queue")
    assert set(both.broke.bounds_ns) == {"ttft_p90@0", "ttft_p90@5"}
    assert patient.rate_per_s < both.rate_per_s <= 1.05 * urgent.rate_per_s


def test_more_replicas_serve_more_and_goodput_is_at_most_the_rate() -> None:
    one, two = (find_capacity(load_test(cluster(replicas=n)), QUICK, explain=False) for n in (1, 2))
    assert two.rate_per_s > 1.5 * one.rate_per_s
    assert 0.85 * one.rate_per_s < one.goodput_per_s <= one.rate_per_s


def test_the_limiting_metric_and_its_cause_are_named() -> None:
    few_places = find_capacity(load_test(cluster(max_num_seqs=2), "ttft_p90<400ms"), QUICK)
    assert few_places.bottleneck is not None
    assert few_places.bottleneck.metric == "ttft_p90"
    assert few_places.bottleneck.cause == "max_num_seqs"
    many = find_capacity(load_test(cluster(max_num_seqs=256), "ttft_p90<400ms"), QUICK)
    assert many.bottleneck is not None
    assert many.bottleneck.cause == "compute"
    assert many.rate_per_s > few_places.rate_per_s
    few_blocks = find_capacity(load_test(cluster(num_gpu_blocks=190), "ttft_p90<400ms"), QUICK)
    assert few_blocks.bottleneck is not None
    assert few_blocks.bottleneck.cause == "kv memory"


def test_the_time_of_every_stage_is_accounted_for_at_the_edge() -> None:
    found = find_capacity(load_test(cluster(pp=4)), QUICK)
    assert found.bottleneck is not None
    assert [stage["stage"] for stage in found.bottleneck.stages] == [0, 1, 2, 3]
    for stage in found.bottleneck.stages:
        assert sum(
            share for name, share in stage.items() if name not in ("instance", "stage")
        ) == pytest.approx(1)


def test_runs_that_are_over_before_a_queue_has_grown_show_no_edge() -> None:
    options = CapacityOptions(seeds=1, requests=20, max_requests=20)
    found = find_capacity(load_test(cluster(), "latency_p99<10min"), options)
    assert found.unbounded
    assert found.high_per_s == math.inf
    assert "over before a queue has grown" in (found.why_wide or "")


@pytest.mark.parametrize("slo", ["ttft_p50<1us", "tpot_p99<1us", "ttft_p99<2s,itl_max<10us"])
def test_an_impossible_slo_is_refused_with_what_it_would_take(slo: str) -> None:
    with pytest.raises(HopelessError, match=r"cannot hold at any rate.*the limit"):
        find_capacity(load_test(cluster(), slo), QUICK)


def test_requests_that_cannot_run_make_an_slo_impossible() -> None:
    tight = cluster(max_model_len=300)
    with pytest.raises(HopelessError, match="rejected"):
        find_capacity(load_test(tight, "ttft_p99<60s"), QUICK)
    with pytest.raises(HopelessError, match="every request is rejected"):
        find_capacity(load_test(cluster(max_model_len=2), "ttft_p99<60s"), QUICK)


def test_the_curve_rises_through_the_capacity() -> None:
    bench = load_test(cluster())
    found: Capacity = find_capacity(bench, QUICK, explain=False)
    curve: list[Trial] = latency_curve(bench, found, 8)
    assert len(curve) == 8
    assert curve[0].holds
    assert not curve[-1].holds
    assert curve[0].rate_per_s == pytest.approx(found.rate_per_s / 10, rel=1e-3)
