"""Experts and data-parallel groups of a cluster config: what it comes to, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import UserError
from penstock.spec.cluster import ClusterSpec
from penstock.spec.load import load_cluster

MOE = "Qwen/Qwen3-30B-A3B-Instruct-2507"
DENSE = "meta-llama/Llama-3.1-8B"


def instance(**changes: Any) -> dict[str, Any]:
    memory = {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0}
    return {
        "model_name": MOE,
        "hardware": "RTXPRO6000",
        "npu_mem": memory,
        "tp_size": 1,
        "pd_type": None,
    } | changes


def load(*instances: dict[str, Any]) -> ClusterSpec:
    node = {"num_instances": len(instances), "instances": list(instances)}
    return load_cluster({"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]})


def sharing(cluster: ClusterSpec) -> list[tuple[int, int, int]]:
    return [(one.experts.ep_size, one.dp_size, one.dp_rank) for one in cluster.instances]


def test_experts_are_shared_out_over_all_ranks_unless_a_config_says_otherwise() -> None:
    assert sharing(load(instance(tp_size=4))) == [(4, 1, 0)]
    assert sharing(load(instance(tp_size=4, enable_expert_parallel=False))) == [(1, 1, 0)]
    assert sharing(load(instance(tp_size=4, ep_size=2))) == [(2, 1, 0)]
    assert sharing(load(instance(model_name="mistralai/Mixtral-8x7B-v0.1", tp_size=16, ep_size=8))) == [
        (8, 1, 0)
    ]
    assert sharing(load(instance(model_name=DENSE, tp_size=4))) == [(1, 1, 0)]


def test_members_of_a_group_know_their_rank() -> None:
    member = instance(dp_group="A", tp_size=2)
    assert sharing(load(member, instance(), member)) == [(4, 2, 0), (1, 1, 0), (4, 2, 1)]


def test_a_data_parallel_size_stands_for_so_many_members() -> None:
    cluster = load(instance(data_parallel_size=3, tp_size=2, ep_size=6), instance(model_name=DENSE))
    assert sharing(cluster) == [(6, 3, 0), (6, 3, 1), (6, 3, 2), (1, 1, 0)]
    assert [one.index for one in cluster.instances] == [0, 1, 2, 3]
    assert len({one.dp_group for one in cluster.instances[:3]}) == 1


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        ([instance(tp_size=2, ep_size=4)], ".ep_size: must be <= tp_size = 2 without a dp_group, not 4"),
        (
            [instance(tp_size=4, ep_size=3)],
            ".ep_size: must divide tp_size x ranks of the group = 4 x 1 = 4, not 3",
        ),
        (
            [instance(dp_group="A", ep_size=3)] * 2,
            ".ep_size: must divide tp_size x ranks of the group = 1 x 2 = 2",
        ),
        (
            [instance(model_name="mistralai/Mixtral-8x7B-v0.1", tp_size=16, ep_size=16)],
            ".ep_size: 16 ranks are more than the 8 experts of mistralai/Mixtral-8x7B-v0.1",
        ),
        (
            [instance(data_parallel_size=256, enable_expert_parallel=True)],
            ".ep_size: 256 ranks are more than the 128 experts of",
        ),
        (
            [instance(dp_group="A"), instance(dp_group="A", tp_size=2)],
            ".tp_size: differs from that of the first member of dp_group 'A'",
        ),
        (
            [instance(dp_group="A"), instance(dp_group="A", model_name=DENSE)],
            ".model_name: differs from that of the first member of dp_group 'A'",
        ),
        (
            [instance(dp_group="A"), instance(dp_group="A", all2all_backend="deepep_low_latency")],
            ": ep_size and other expert options differ",
        ),
        (
            [instance(model_name=DENSE, ep_size=2, tp_size=2)],
            ".ep_size: must be 1, as meta-llama/Llama-3.1-8B",
        ),
        ([instance(model_name=DENSE, enable_eplb=True)], ".enable_eplb: needs a mixture of experts"),
        ([instance(num_redundant_experts=4)], ".num_redundant_experts: needs enable_eplb"),
        (
            [instance(tp_size=4, enable_eplb=True, num_redundant_experts=3)],
            ".ep_size: 4 ranks must divide the 128 + 3 copies experts with enable_eplb",
        ),
        (
            [instance(expert_popularity=[1, 2])],
            ".expert_popularity: must have one load for each of the 128 experts",
        ),
        (
            [instance(expert_popularity=[1] * 7 + [0] * 121)],
            ".expert_popularity: must be > 0 for at least the 8",
        ),
        ([instance(expert_popularity="zipf")], '.expert_popularity: must be "uniform", "power_law(1.2)"'),
        ([instance(all2all_backend="pplx")], ".all2all_backend: must be 'allgather_reducescatter'"),
        ([instance(tp_size=3)], ".tp_size: tp 3 must divide the 32 attention heads"),
        (
            [instance(tp_size=1, data_parallel_size=7, enable_expert_parallel=False)],
            "7 ranks must divide the experts' width 768",
        ),
    ],
)
def test_what_ranks_cannot_share_is_refused(instances: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError) as error:
        load(*instances)
    assert any(message in str(problem) for problem in error.value.problems), error.value.problems
    assert len(error.value.problems) <= 2


def test_another_model_in_a_group_is_one_mistake() -> None:
    with pytest.raises(UserError) as error:
        load(instance(dp_group="A"), instance(dp_group="A", model_name=DENSE))
    (problem,) = error.value.problems
    assert ".model_name: differs from that of the first member" in str(problem)
