"""Instances that are alike share tables, not counters."""

from __future__ import annotations

from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.spec.load import load_cluster

INSTANCE = {
    "model_name": "meta-llama/Llama-3.1-8B",
    "hardware": "RTXPRO6000",
    "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
    "num_npus": 2,
    "tp_size": 1,
    "pp_size": 2,
    "pd_type": None,
}


def _built(*instances: dict[str, object]):
    nodes = [{"num_instances": 1, "instances": [instance]} for instance in instances]
    cluster = {"num_nodes": len(nodes), "link_bw": 16, "link_latency": 20000, "nodes": nodes}
    return build_instances(load_cluster(cluster, {}), None)


def test_alike_instances_count_their_own_lookups():
    first, second = _built(INSTANCE, INSTANCE)
    beyond = 1 << 20
    first.cost.stage.stage_ns(StepShape(0, 0, 1, beyond, beyond, beyond, 1))
    assert first.cost.stage.notes()
    assert not second.cost.stage.notes()


def test_alike_instances_cost_the_same_after_either_has_grown_its_tables():
    first, second = _built(INSTANCE, INSTANCE)
    alone = _built(INSTANCE)[0]
    step = StepShape(3000, 0, 4500, 4_500_000, 900, 1100, 4500)
    second.cost.stage.stage_ns(StepShape(0, 0, 400, 400_000, 900, 1100, 400))
    assert first.cost.stage.stage_ns(step) == alone.cost.stage.stage_ns(step)
    assert second.cost.stage.stage_ns(step) == alone.cost.stage.stage_ns(step)


def test_every_instance_keeps_its_number_and_spec():
    first, second = _built(INSTANCE, INSTANCE)
    assert (first.deployment.instance, second.deployment.instance) == (0, 1)
    assert (first.spec.node, second.spec.node) == (0, 1)


def test_replicas_on_other_nodes_are_alike_but_leave_by_their_own_links():
    pairs = [[0, 1], [2, 3], [3, 2], [1, 1]]
    nodes = [{"num_instances": 1, "instances": [INSTANCE | {"placement_nodes": pair}]} for pair in pairs]
    cluster = {
        "num_nodes": 4,
        "link_bw": [16, 3],
        "link_latency": 0,
        "nodes": nodes,
        "shared_node_links": True,
    }
    built = build_instances(load_cluster(cluster, {}), None)
    links = [one.cost.hops[0].shared_link for one in built]
    assert links == ["out of node 0", "out of node 2", "out of node 3", None]
    assert built[0].cost.hops[0].arrival_ns is built[2].cost.hops[0].arrival_ns


def test_instances_that_differ_are_built_apart():
    first, second = _built(INSTANCE, INSTANCE | {"num_npus": 1, "pp_size": 1})
    assert (first.deployment.layers, second.deployment.layers) == ((16, 16), (32,))
    assert len(first.cost.stage.stage_ns(StepShape(100, 0, 0, 0, 0, 0, 1))) == 2
    assert len(second.cost.stage.stage_ns(StepShape(100, 0, 0, 0, 0, 0, 1))) == 1
