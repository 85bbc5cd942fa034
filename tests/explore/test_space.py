"""Spaces: what their points are, which cannot run, and the configs they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from explore.studies import write_study
from penstock.errors import UserError
from penstock.explore.design_point import DesignPoint, Network, Site, cluster_config, settled, spans_nodes
from penstock.explore.pool import InProcess
from penstock.explore.space import Feasibility, Infeasible, Pruned, enumerate_points
from penstock.explore.study import run_study
from penstock.explore.study_spec import load_study
from penstock.spec.load import load_cluster

SITE = Site(
    model="meta-llama/Llama-3.1-70B",
    gpus_per_node=4,
    networks={"fast": Network((400, 1000), (46, 5000)), "slow": Network((400, 1000), (3, 20_000))},
    npu_mem={},
    engine={"block_size": 32},
)


def point(**members: Any) -> DesignPoint:
    own: dict[str, Any] = {"hardware": "H100", "tp": 4, "pp": 1, "replicas": 1, "network": "fast"}
    return DesignPoint(**{**own, **members})


def points_of(directory: Path, **changes: Any) -> tuple[list[DesignPoint], Pruned]:
    spec = load_study(write_study(directory, **changes))
    return enumerate_points(spec.space, Feasibility(spec.site, spec.profile_root))


def test_points_come_once_in_order_and_the_others_are_counted_by_reason(tmp_path: Path) -> None:
    space = {"hardware": "H100", "gpus": [2, 4], "tp": [1, 2, 3], "pp": [1, 2], "router": ["LOAD", "RR"]}
    points, pruned = points_of(tmp_path, space=space)
    labels = [one.label for one in points]
    assert labels == [
        "H100, 2 x TP1",
        "H100, 2 x TP1, RR",
        "H100, PP2",  # with one replica routers are the same
        "H100, TP2",
        "H100, 4 x TP1",
        "H100, 4 x TP1, RR",
        "H100, 2 x PP2",
        "H100, 2 x PP2, RR",
        "H100, 2 x TP2",
        "H100, 2 x TP2, RR",
        "H100, TP2 PP2",
    ]
    assert pruned.counts == {"gpus": 10}
    assert "10 x gpus: tp 2 x pp 2 = 4 does not divide 2 GPUs" in pruned.lines()[0]


def test_what_does_not_fit_is_pruned_with_the_reason(tmp_path: Path) -> None:
    space = {"hardware": ["H100", "L4"], "tp": [1, 7], "pp": [1, 40], "partition": ["even", [40, 40]]}
    points, pruned = points_of(tmp_path, model="meta-llama/Llama-3.1-70B", space=space)
    assert [one.label for one in points] == ["H100, PP40", "L4, PP40"]
    assert set(pruned.counts) == {"memory", "tp_size", "partition"}
    lines = "\n".join(pruned.lines())
    assert "does not fit at tp 1 x pp 1" in lines
    assert "tp 7 must divide the 64 attention heads" in lines
    assert "a partition of 2 stages does not fit pp 1" in lines


def test_depths_and_partitions_are_resolved_by_stage_count(tmp_path: Path) -> None:
    space = {
        "hardware": "H100",
        "pp": [1, 2],
        "max_in_flight": ["pp", "pp+1", 2],
        "partition": ["even", "balanced", [20, 12]],
    }
    points, _ = points_of(tmp_path, space=space)
    found = {(one.pp, one.max_in_flight, one.partition) for one in points}
    # Depth pp is the engine's own; at one stage there is nothing to cut.
    parts = ("even", "balanced", (20, 12))
    assert found == {
        (1, None, "even"),
        (1, 2, "even"),
        *((2, depth, cut) for depth in (None, 3) for cut in parts),
    }


def test_a_network_between_nodes_matters_only_to_replicas_that_span_them(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "gpus_per_node": 2,
        "networks": {
            "fast": {"inside_gb_per_s": 400},
            "slow": {"inside_gb_per_s": 400, "between_gb_per_s": 1},
        },
        "space": {"hardware": "H100", "gpus": 4, "tp": [1, 2], "pp": [1, 2], "network": ["slow", "fast"]},
    }
    points, _ = points_of(tmp_path, **changes)
    labels = [one.label for one in points]
    assert labels == ["H100, 4 x TP1, fast", "H100, 2 x PP2, fast", "H100, 2 x TP2, fast", *labels[3:]]
    assert labels[3:] == ["H100, TP2 PP2, slow", "H100, TP2 PP2, fast"]


def test_a_network_inside_nodes_does_not_matter_to_a_ring_over_nodes() -> None:
    site = replace(SITE, networks={**SITE.networks, "pcie": Network((200, 3000), (46, 5000))})
    assert settled(point(tp=8, network="pcie"), site).network == "fast"
    assert settled(point(tp=8, network="slow"), site).network == "slow"
    assert settled(point(tp=4, pp=2, network="pcie"), site).network == "pcie"
    assert settled(point(tp=4, replicas=2, network="slow"), site).network == "fast"


def test_configs_lay_stages_out_node_by_node() -> None:
    config = cluster_config(point(tp=2, pp=2, replicas=3), SITE)
    assert config["num_nodes"] == 3
    cluster = load_cluster(config)
    assert [spec.node for spec in cluster.instances] == [0, 1, 2]
    assert cluster.instances[0].scheduler.block_size == 32
    wide = cluster_config(point(tp=2, pp=4, replicas=1), SITE)
    assert load_cluster(wide).instances[0].placement_nodes == (0, 0, 1, 1)
    assert wide["link_bw"] == [400, 46]


def test_rings_over_nodes_share_the_links_of_all_gpus_of_a_node() -> None:
    config = cluster_config(point(tp=8, network="slow"), SITE)
    assert (config["link_bw"], config["link_latency"]) == ([12, 3], [20_000, 20_000])
    assert cluster_config(point(tp=8), replace(SITE, gpus_per_node=2))["link_bw"] == [92, 46]
    narrow = replace(SITE, networks={"fast": Network((60, 1000), (46, 5000))})
    assert cluster_config(point(tp=8), narrow)["link_bw"] == [60, 46]
    assert config["num_nodes"] == 2
    assert spans_nodes(point(tp=8), SITE)
    assert not spans_nodes(point(tp=2, pp=2, replicas=2), SITE)
    assert Feasibility(replace(SITE, gpus_per_node=6), None).why_not(point(tp=4)) == Infeasible(
        "nodes", "tp 4 neither divides nor fills nodes of 6 GPUs"
    )


def test_engine_choices_reach_the_config() -> None:
    members = {"max_num_seqs": 32, "max_num_batched_tokens": 512, "max_in_flight": 3, "policy": "decode-cap"}
    config = cluster_config(point(tp=2, pp=2, partition=(30, 50), dtype="float16", **members), SITE)
    spec = load_cluster(config).instances[0]
    assert spec.layer_partition == (30, 50)
    assert spec.dtype == "float16"
    for name, value in members.items():
        assert getattr(spec.scheduler, name) == value


def test_points_survive_json() -> None:
    one = point(partition=(1, 2, 3), router="P2C", max_num_seqs=3)
    data = one.to_json()
    assert DesignPoint.from_json({**data, "partition": list(data["partition"])}) == one


def test_a_space_in_which_nothing_can_run_says_why_by_reason_and_count(tmp_path: Path) -> None:
    space = {"hardware": "L4", "gpus": [1, 3], "tp": [1, 3]}
    path = write_study(tmp_path, model="meta-llama/Llama-3.1-70B", space=space)
    with pytest.raises(UserError) as error:
        run_study(load_study(path), tmp_path / "out", InProcess, lambda step: None)
    text = str(error.value)
    assert "no point can run: all 4 are infeasible" in text
    assert "2 x memory" in text
    assert "1 x gpus" in text
    assert "1 x tp_size" in text


def test_prefill_apart_and_ranks_in_lock_step_are_points_with_their_own_gpus_and_prices() -> None:
    apart = point(tp=2, pp=2, replicas=1, prefill_replicas=2, prefill_tp=1, prefill_hardware="L40S")
    assert apart.gpus == 4 + 2 * 2
    assert apart.label == "H100, decode TP2 PP2 + prefill 2 x PP2 of L40S, fast"
    assert apart.usd_per_hour({"H100": 3.0, "L40S": 1.0}) == 4 * 3 + 4 * 1
    assert apart.usd_per_hour({"H100": 3.0}) is None
    assert spans_nodes(apart, SITE)
    site = replace(SITE, model="meta-llama/Llama-3.1-8B")
    cluster = load_cluster(cluster_config(apart, site))
    assert [(s.pd_type, s.hardware, s.tp_size, s.node) for s in cluster.instances] == [
        ("prefill", "L40S", 1, 0),
        ("prefill", "L40S", 1, 0),
        ("decode", "H100", 2, 1),
    ]
    ranks = point(tp=2, dp=2, replicas=2, ep=4)
    assert (ranks.gpus, ranks.label) == (8, "H100, 2 x TP2 DP2, EP 4, fast")
    cluster = load_cluster(cluster_config(ranks, replace(SITE, model="mistralai/Mixtral-8x7B-v0.1")))
    assert [(s.dp_group, s.dp_size, s.node, s.experts.ep_size) for s in cluster.instances] == [
        ("replica 0", 2, 0, 4),
        ("replica 0", 2, 0, 4),
        ("replica 1", 2, 1, 4),
        ("replica 1", 2, 1, 4),
    ]


def test_spaces_fill_what_prefill_leaves_and_name_what_is_missing(tmp_path: Path) -> None:
    space = {"hardware": "H100", "gpus": 4, "tp": [1, 2], "prefill_replicas": [0, 1], "prefill_tp": [1, 2]}
    points, pruned = points_of(tmp_path, space=space)
    assert [one.label for one in points] == [
        "H100, 4 x TP1",
        "H100, decode 3 x TP1 + prefill TP1",
        "H100, decode 2 x TP1 + prefill TP2",
        "H100, 2 x TP2",
        "H100, decode TP2 + prefill TP2",
    ]
    assert pruned.lines() == ["1 x gpus: tp 2 x pp 1 = 2 does not divide the 3 of 4 GPUs that prefill leaves"]
    points, pruned = points_of(tmp_path, space={"hardware": "H100", "dp": [1, 2], "ep": 2})
    assert not points
    assert "is no mixture of experts" in pruned.lines()[0]
    with pytest.raises(UserError, match="prefill_tp: says nothing without prefill_replicas above 0"):
        points_of(tmp_path, space={"hardware": "H100", "prefill_tp": 2})
