"""Mixtures of experts run as other models do, on one replica at any tp and pp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.spec.load import load_cluster

CONFIGS = ("single_node_moe_single_instance", "single_node_moe_multi_instance", "single_node_moe_pp_instance")


def cluster(**changes: Any) -> dict[str, Any]:
    memory = {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0}
    instance = {
        "model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "hardware": "H100",
        "npu_mem": memory,
        "tp_size": 2,
        "pp_size": 2,
        "pd_type": None,
    } | changes
    return {
        "num_nodes": 1,
        "link_bw": 400,
        "link_latency": 1000,
        "nodes": [{"num_instances": 1, "instances": [instance]}],
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_llmservingsim_s_mixtures_run_on_its_own_profile(
    name: str, shared_dir: Path, repository: Path
) -> None:
    data = shared_dir / "data" / "llmservingsim"
    result = penstock.simulate(
        data / "configs" / "cluster" / f"{name}.json",
        repository / "workloads" / "example_trace.jsonl",
        profile_root=data / "perf",
    )
    assert result.summary.requests.finished == 100
    basis = " ".join(result.summary.instances[0].basis)
    assert "moe.csv, by pairs on the slowest rank" in basis
    assert "routing: random, 8 of 128 experts" in basis


def test_sharing_experts_out_or_splitting_each_is_told_and_costs_differently() -> None:
    shared, split = (
        build_instances(load_cluster(cluster(enable_expert_parallel=way)), None)[0] for way in (True, False)
    )
    load = StepShape.of_decodes(64, 500)
    assert shared.cost.stage.stage_ns(load) != split.cost.stage.stage_ns(load)
    assert "shared out over 2 ranks" in " ".join(shared.deployment.basis)
    assert "each split over 2 ranks" in " ".join(split.deployment.basis)
    # 64 of 128 experts whole, or half of each: the same bytes.
    weights = [one.deployment.memory.stages[0].weights_bytes for one in (shared, split)]
    assert weights[0] == weights[1]


def test_popular_experts_make_a_prefill_slower() -> None:
    even, skewed, copied = (
        build_instances(load_cluster(cluster(tp_size=4, pp_size=1, **changes)), None)[0]
        for changes in (
            {},
            {"expert_popularity": "power_law(1.2)"},
            {"expert_popularity": "power_law(1.2)", "enable_eplb": True, "num_redundant_experts": 32},
        )
    )
    load = StepShape(2048, 0, 0, 0, 0, 0, 1)
    slow, fast, mended = (one.cost.stage.stage_ns(load)[0] for one in (skewed, even, copied))
    assert fast < mended < slow


def test_an_automatic_split_knows_dense_layers_from_mixtures(tmp_path: Path) -> None:
    """DeepSeek's first layers are dense: the first stage takes more layers than the others."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {
                "model_type": "deepseek_v3",
                "hidden_size": 1024,
                "num_hidden_layers": 24,
                "first_k_dense_replace": 8,
                "num_attention_heads": 16,
                "intermediate_size": 2048,
                "moe_intermediate_size": 2048,
                "n_routed_experts": 64,
                "num_experts_per_tok": 8,
                "kv_lora_rank": 128,
                "qk_nope_head_dim": 64,
                "qk_rope_head_dim": 32,
                "v_head_dim": 64,
                "vocab_size": 1000,
                "max_position_embeddings": 4096,
            }
        )
    )
    built = build_instances(
        load_cluster(
            cluster(model_name=str(path), tp_size=1, pp_layer_partition="auto", max_num_batched_tokens=512)
        ),
        None,
    )[0]
    first, second = built.deployment.layers
    assert first + second == 24
    assert first > 13


def test_ranks_of_a_dense_model_are_engines_of_their_own() -> None:
    spec = load_cluster(cluster(model_name="meta-llama/Llama-3.1-8B", data_parallel_size=3, pp_size=1))
    assert [one.deployment.instance for one in build_instances(spec, None)] == [0, 1, 2]
