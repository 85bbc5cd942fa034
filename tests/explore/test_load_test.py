"""A search runs what a run of the same cluster runs."""

from __future__ import annotations

from typing import Any

import penstock
from penstock.explore.load_test import LoadTest
from penstock.spec.load import load_cluster
from penstock.workload.offered_load import Arrivals, OfferedLoad
from penstock.workload.workload import Columns, Workload


def replica(nodes: list[int]) -> dict[str, Any]:
    return {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597},
        "num_npus": 2,
        "pp_size": 2,
        "placement_nodes": nodes,
    }


def test_replicas_on_nodes_of_their_own_do_not_share_a_link() -> None:
    instances = [replica([0, 1]), replica([2, 3])]
    entries: list[list[dict[str, Any]]] = [instances[:1], [], instances[1:], []]
    cluster = load_cluster(
        {
            "num_nodes": 4,
            "link_bw": [16, 0.05],
            "link_latency": [20000, 50000],
            "shared_node_links": True,
            "nodes": [{"num_instances": len(entry), "instances": entry} for entry in entries],
        }
    )
    columns = Columns()
    for place in range(40):
        columns.add_plain(place * 5_000_000, 500, 20)
    workload = Workload(columns, "forty")
    trial = LoadTest(cluster, OfferedLoad(workload, Arrivals("scaled")), None).try_as_given()
    result = penstock.simulate(cluster, workload)
    run = result.summary
    assert run.latency is not None
    assert result.energy is not None
    assert trial.joules_per_token == result.energy.per_token_j
    assert trial.statistics_ns["ttft_p50"] == run.latency.ttft.p50_ns
    assert trial.statistics_ns["latency_p99"] == run.latency.latency.p99_ns
