"""What stands where: groups of unequal size, groups over several dimensions, nodes."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.api import Run, load_scenario, simulate
from penstock.errors import UserError
from penstock.workload.workload import Workload


def instance(tp_size: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350},
        "pd_type": None,
        "tp_size": tp_size,
        "engine_overhead": "none",
        **fields,
    }


def cluster(*nodes: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "num_nodes": len(nodes),
        "link_bw": [300, 25],
        "link_latency": [1000, 10_000],
        "nodes": [{"num_instances": len(node), "instances": node} for node in nodes],
        **fields,
    }


def latencies(config: dict[str, Any], count: int = 1) -> list[int]:
    """From arrival to the last token, of requests that come far apart."""
    gap = 10**10
    workload = Workload.from_columns([k * gap for k in range(count)], [320] * count, [9] * count, "test")
    rows = simulate(config, workload, router="RR").requests.sort("request")
    return (rows["finish_ns"] - rows["arrival_ns"]).to_list()


def test_instances_of_unequal_tp_have_rings_of_their_own() -> None:
    # LLMServingSim makes rings of 3 out of tp 4 beside tp 2.
    alone = [latencies(cluster([instance(tp)]))[0] for tp in (4, 2, 1)]
    assert len(set(alone)) == 3
    assert latencies(cluster([instance(4), instance(2), instance(1)]), 3) == alone


@pytest.mark.parametrize(("prefill", "decode"), [(2, 4), (4, 2), (1, 2)])
def test_kv_goes_between_unequal_tp(prefill: int, decode: int) -> None:
    pair = [instance(prefill, pd_type="prefill"), instance(decode, pd_type="decode")]
    workload = Workload.from_columns([0], [320], [9], "test")
    result = simulate(cluster(pair), workload)
    assert result.summary.requests.finished == 1
    (moved,) = result.record.transfers
    assert moved.size_bytes == 320 * 2 * 32 * 8 * 128 * 2


def test_two_nodes_are_not_one() -> None:
    sleep_ns = 100
    prefill, decode = (
        instance(pd_type=kind, engine_idle_sleep_ns=sleep_ns) for kind in ("prefill", "decode")
    )
    (near,) = latencies(cluster([prefill, decode]))
    (far,) = latencies(cluster([prefill], [decode]))
    # The KV of 320 tokens, 40 MiB, at 25 in the place of 300 GiB/s, and 9 us more of latency.
    size = 320 * 2 * 32 * 8 * 128 * 2
    slower = int(size / (25 * 2**30 / 1e9) - size / (300 * 2**30 / 1e9)) + 9000
    assert far - near == pytest.approx(slower, abs=2 * sleep_ns)


def ranks(**fields: Any) -> dict[str, Any]:
    """Four data-parallel ranks of tp 2 with experts: 8 NPUs of one node."""
    moe = instance(2, model_name="mistralai/Mixtral-8x7B-v0.1", dp_group="g", ep_size=8, num_npus=2)
    return cluster([moe] * 4, **fields)


def basis_of(config: dict[str, Any]) -> str:
    workload = Workload.from_columns([0], [64], [4], "test")
    run = Run(load_scenario(config, workload, {}))
    assert run.run().summary.requests.finished == 1
    return " ".join(line for one in run.deployments for line in one.basis)


def test_ranks_in_lockstep_gather_over_the_dimensions_they_fill() -> None:
    flat = basis_of(ranks())
    assert "8 ranks, 300 GB/s" in flat
    cut = basis_of(ranks(npus_per_dimension=[4, 2]))
    assert "8 ranks, 4 over 300 GB/s, 1 us, then 2 over 25 GB/s, 10 us" in cut
    workload = Workload.from_columns([0], [64], [4], "test")
    one, other = (
        simulate(config, workload).requests["finish_ns"][0]
        for config in (ranks(), ranks(npus_per_dimension=[4, 2]))
    )
    assert other > one
    with pytest.raises(UserError, match="does not fill npus_per_dimension"):
        simulate(ranks(npus_per_dimension=[3, 3]), workload)
