"""The cost of a lock-step group against the same sums written for reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cost.attention import AttentionLookup
from penstock.cost.compile import cost_question
from penstock.cost.compile_group import compile_group
from penstock.cost.experts.dispatch import Crossing
from penstock.cost.experts.layer import expert_layer
from penstock.cost.lockstep import graph_sizes
from penstock.cost.network import inner_link, outer_link
from penstock.cost.sources import kernel_tables
from penstock.cost.step_cost import StepShape
from penstock.cost.weights import shard_of
from penstock.spec.cluster import ClusterSpec
from penstock.spec.layers import MoeMlp
from penstock.spec.load import load_cluster

CONFIG = {
    "model_type": "deepseek_v3",
    "hidden_size": 1024,
    "num_hidden_layers": 5,
    "first_k_dense_replace": 2,
    "num_attention_heads": 8,
    "kv_lora_rank": 128,
    "q_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "v_head_dim": 64,
    "intermediate_size": 4096,
    "moe_intermediate_size": 512,
    "n_routed_experts": 32,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "vocab_size": 32000,
    "max_position_embeddings": 16384,
}
COUNTS = (3, 2)


def cluster_of(tmp: Any, **changes: Any) -> ClusterSpec:
    import json

    path = tmp / "config.json"
    path.write_text(json.dumps(CONFIG))
    instance = {
        "model_name": str(path),
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "pp_size": 2,
        "data_parallel_size": 4,
        "pp_layer_partition": list(COUNTS),
        "max_num_seqs": 64,
        "max_num_batched_tokens": 1024,
        "pd_type": None,
        "engine_overhead": "none",
    } | changes
    node = {"num_instances": 1, "instances": [instance]}
    return load_cluster({"num_nodes": 1, "link_bw": 400, "link_latency": 1000, "nodes": [node]})


def by_hand(cluster: ClusterSpec, loads: list[StepShape | None]) -> list[int]:
    """A forward layer by layer, each rounded as a whole; within a few ns of the tables, which round their parts."""
    first = cluster.instances[0]
    ranks, shard = len(cluster.instances), shard_of(cluster.instances[0])
    inner, outer = inner_link(cluster.link), outer_link(cluster.link)
    tokens = [1 if load is None else load.decodes + load.prefill_tokens for load in loads]
    sizes = graph_sizes(min(2 * first.scheduler.max_num_seqs, 512))
    if max(tokens) <= sizes[-1]:
        tokens = [min(size for size in sizes if size >= max(tokens))] * ranks
    most, total = max(tokens), sum(tokens)
    times: list[float] = []
    for number, stage in enumerate(first.model.cut(COUNTS)):
        time = float(first.experts.count_exchange_ns)
        for group in stage:
            question = cost_question(first, first.hardware, group.kind)
            tables = kernel_tables(question, None)
            lookup = AttentionLookup(tables.attention, tables.skew)
            attention = [lookup.decode_ns(1, 0, 0, 0)]
            for load in loads:
                if load is not None and load.prefill_tokens:
                    attention.append(
                        lookup.mixed_ns(
                            load.prefill_tokens,
                            load.prefill_context,
                            load.decodes,
                            load.decode_context,
                            load.min_context,
                            load.max_context,
                        )
                    )
                elif load is not None:
                    attention.append(
                        lookup.decode_ns(
                            load.decodes, load.decode_context, load.min_context, load.max_context
                        )
                    )
            layer = max(attention) + 1000 * float(tables.block_us(most))
            if isinstance(group.kind.mlp, MoeMlp):
                moe = expert_layer(question, group.kind.mlp, shard, first.experts, None)
                assert moe.shared is not None
                assert moe.router is not None
                routed, shared = float(moe.routed.at(total)), float(moe.shared.at(most))
                both = max(routed, shared) if most <= 256 else routed + shared
                layer += 1000 * (both + float(moe.router.at(most)))
                crossing = Crossing(
                    backend=first.experts.backend,
                    moe=group.kind.mlp,
                    hidden=1024,
                    activation_bytes=2,
                    ranks=ranks,
                    tensor_ranks=1,
                    nodes=1,
                    sequence_parallel=False,
                    inner=inner,
                    outer=outer,
                )
                layer += float(crossing.total_ns(np.array([total]), np.array([most]))[0])
            time += group.count * layer
        if number == 0:
            time += 1000 * float(tables.dense["embedding"].at(most))
        else:
            sampled = max(0 if load is None else load.sampled for load in loads)
            time += 1000 * float(tables.dense["final_layernorm"].at(most))
            time += 1000 * float(tables.head_us(sampled)) if sampled else 0.0
        times.append(time)
    return [round(time) for time in times]


def loads_of(draw: Any) -> list[StepShape | None]:
    loads: list[StepShape | None] = []
    for _ in range(4):
        decodes = draw(st.integers(0, 64))
        prefill = draw(st.sampled_from([0, 0, 0, 2, 40, 500, 900]))
        context = draw(st.integers(1, 4000))
        if decodes + prefill == 0:
            loads.append(None)
        else:
            low = draw(st.integers(1, context)) if decodes else 0
            shape = (prefill, 3 * prefill, decodes, decodes * context, low, context if decodes else 0)
            loads.append(StepShape(*shape, decodes))
    return loads


@pytest.mark.parametrize(
    "backend", ["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"]
)
def test_a_forward_is_the_sum_of_its_layers(backend: str, tmp_path: Any) -> None:
    cluster = cluster_of(tmp_path, all2all_backend=backend)
    first = cluster.instances[0]
    cost, _ = compile_group(cluster.instances, cluster, first.model.cut(COUNTS), None)

    @given(st.data())
    def check(data: st.DataObject) -> None:
        loads = loads_of(data.draw)
        if not any(loads):
            return
        found, wanted = cost.forward_ns(loads), by_hand(cluster, loads)
        assert all(abs(one - other) <= 40 for one, other in zip(found, wanted, strict=True)), (found, wanted)

    check()


def test_the_captured_sizes_are_vllm_s() -> None:
    assert graph_sizes(0) == []
    assert graph_sizes(20) == [1, 2, 4, 8, 16]
    assert graph_sizes(512)[:5] + graph_sizes(512)[-3:] == [1, 2, 4, 8, 16, 480, 496, 512]
    assert len(graph_sizes(512)) == 3 + 31 + 17


def test_every_rank_pads_to_the_largest_unless_one_has_no_graph(tmp_path: Any) -> None:
    cluster = cluster_of(tmp_path)
    cost, basis = compile_group(cluster.instances, cluster, cluster.instances[0].model.cut(COUNTS), None)
    few, many = StepShape.of_decodes(3, 500), StepShape.of_decodes(50, 500)
    prefill = StepShape(300, 0, 0, 0, 0, 0, 1)
    assert cost.padded_tokens([few, None, None, None]) == 4
    assert cost.padded_tokens([few, many, None, None]) == 56
    assert cost.padded_tokens([few, many, prefill, None]) == 0
    assert "pad to the largest rank's CUDA graph" in basis[-1]


def test_a_dummy_weighs_as_much_as_the_padding_makes_it(tmp_path: Any) -> None:
    cluster = cluster_of(tmp_path)
    cost, _ = compile_group(cluster.instances, cluster, cluster.instances[0].model.cut(COUNTS), None)
    busy, one = StepShape.of_decodes(64, 1000), StepShape.of_decodes(1, 10)
    assert cost.forward_ns([busy, None, None, None]) == cost.forward_ns([busy, one, one, one])
    assert cost.forward_ns([busy, None, None, None]) == cost.forward_ns([busy] * 4)


def test_without_graphs_fewer_tokens_take_less_time(tmp_path: Any) -> None:
    cluster = cluster_of(tmp_path, cudagraph_max_tokens=0)
    cost, _ = compile_group(cluster.instances, cluster, cluster.instances[0].model.cut(COUNTS), None)
    busy = StepShape.of_decodes(64, 1000)
    alone, all_busy = cost.forward_ns([busy, None, None, None]), cost.forward_ns([busy] * 4)
    assert all(one < other for one, other in zip(alone, all_busy, strict=True))


def test_the_exchange_of_counts_stands_in_every_stage(tmp_path: Any) -> None:
    load: list[StepShape | None] = [StepShape.of_decodes(8, 100), None, None, None]
    costs = [cluster_of(tmp_path, dp_count_exchange_ns=ns) for ns in (0, 70_000)]
    without, with_it = (
        compile_group(one.instances, one, one.instances[0].model.cut(COUNTS), None)[0].forward_ns(load)
        for one in costs
    )
    assert [b - a for a, b in zip(without, with_it, strict=True)] == [70_000, 70_000]
