"""The mean step: closed forms where costs are simple, and the simulation where they are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.explore.design_point import DesignPoint, Site, cluster_config
from penstock.explore.estimate import Replica, Traffic, round_limit_ns
from penstock.explore.load_test import LoadTest
from penstock.explore.slo import parse_slo
from penstock.spec.load import load_cluster
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.offered_load import Arrivals, OfferedLoad

SITE = Site(model="meta-llama/Llama-3.1-8B", gpus_per_node=8, networks={}, npu_mem={}, engine={})


def _two_stages(shape: StepShape) -> Sequence[int]:
    """1 ms a stage and step, and 10 us a prompt token."""
    return (1_000_000 + 10_000 * shape.prefill_tokens,) * 2


def _one_stage(shape: StepShape) -> Sequence[int]:
    return _two_stages(shape)[:1]


def _no_hop(_: int) -> int:
    return 0


PLAIN = Replica(
    stage_ns=_two_stages,
    hop_ns=_no_hop,
    pp=2,
    ranks=1,
    max_num_seqs=100,
    max_num_batched_tokens=10_000,
    kv_tokens=10**9,
)


def test_decoding_alone_is_places_over_the_time_of_an_answer() -> None:
    step = replace(PLAIN, prefills=False).most(Traffic(50, 101))
    assert step is not None
    assert step.round_ns == pytest.approx(2_000_000)
    assert step.running == pytest.approx(100)
    assert step.requests_per_s == pytest.approx(100 / (100 * 0.002))


def test_the_kv_cache_and_the_ranks_count() -> None:
    few = replace(PLAIN, prefills=False, kv_tokens=5_025).most(Traffic(50, 101))
    two = replace(PLAIN, prefills=False, ranks=2).most(Traffic(50, 101))
    assert few is not None
    assert two is not None
    assert few.running == pytest.approx(50)
    assert two.requests_per_s == pytest.approx(2 * 500)


def test_prompts_alone_fill_a_step() -> None:
    one = replace(PLAIN, stage_ns=_one_stage, pp=1, decodes=False, max_num_batched_tokens=1000)
    step = one.most(Traffic(100, 50))
    assert step is not None
    assert step.requests_per_s == pytest.approx(10 / 0.011, rel=0.01)


def test_a_limit_on_the_round_bounds_it_and_may_be_out_of_reach() -> None:
    assert PLAIN.most(Traffic(100, 100), 1_999_000) is None
    bound = PLAIN.most(Traffic(100, 100), 2_200_000)
    free = PLAIN.most(Traffic(100, 100))
    assert bound is not None
    assert free is not None
    assert bound.round_ns <= 2_200_000 < free.round_ns
    assert bound.requests_per_s < free.requests_per_s


def test_limits_of_tokens_come_from_the_slo() -> None:
    traffic = Traffic(100, 50)
    assert round_limit_ns(parse_slo("ttft_p99<1s,tpot_p99<60ms"), traffic) == 60e6
    assert round_limit_ns(parse_slo("tpot_p99<60ms,latency_mean<2s"), traffic) == 40e6
    assert round_limit_ns(parse_slo("ttft_p99<1s"), traffic) == float("inf")


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (1, 2)])
def test_a_full_system_does_what_the_estimate_says(tp: int, pp: int) -> None:
    point = DesignPoint(
        hardware="H100", tp=tp, pp=pp, replicas=1, max_num_seqs=32, max_num_batched_tokens=1024
    )
    cluster = load_cluster(cluster_config(point, SITE))
    recipe = Recipe(
        num_requests=600,
        input_tokens=parse_lengths("lognormal:400,0.6", ""),
        output_tokens=parse_lengths("uniform:20,60", ""),
    )
    workload = generate(recipe)
    step = Replica.of(build_instances(cluster, None)[0]).most(Traffic.of(workload))
    _, full = LoadTest(cluster, OfferedLoad(workload, Arrivals(), recipe), None).full_throughput(600)
    assert step is not None
    assert full is not None
    assert full.sound
    assert step.requests_per_s == pytest.approx(full.requests_per_s.estimate, rel=0.1)
