"""DeepSeek-R1 on 16 H200 (two nodes of eight): five ways to use them.

    python examples/deepseek.py

TP16; TP8 x PP2; 16 data-parallel ranks that share the experts (DP16EP16); two pipeline stages of eight such ranks
(DP8EP8 x PP2); and prefill and decode apart, eight ranks each (P/D). Chats and long prompts, in a closed loop of 256
and of 64 users. Costs are those of this machine's sources: without profiles a roofline, which is an estimate.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import penstock
from penstock.units import NS_PER_MS, NS_PER_S
from penstock.workload.workload import Workload

SHAPE = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 3,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "tie_word_embeddings": False,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}
LOADS = {"chats, 256 users": (256, 512, 700, 300), "long prompts, 64 users": (64, 128, 16_000, 300)}


def model() -> str:
    """DeepSeek-R1's shape as a config in a temporary directory; returns its path."""
    path = Path(tempfile.mkdtemp()) / "deepseek-r1.json"
    path.write_text(json.dumps(SHAPE), encoding="utf-8")
    return str(path)


def cluster(path: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """Instances on two nodes: NVLink inside, 400 Gbit/s for each NPU between."""
    common = {
        "model_name": path,
        "hardware": "H200",
        "npu_mem": {"mem_size": 141, "mem_bw": 4800, "mem_latency": 0},
        "max_num_batched_tokens": 8192,
        "max_num_seqs": 256,
    }
    instances = [common | entry for entry in entries]
    if len(instances) == 1:
        nodes = [{"num_instances": 1, "instances": instances}, {"num_instances": 0, "instances": []}]
    else:
        nodes = [{"num_instances": 1, "instances": [one]} for one in instances]
    return {
        "num_nodes": 2,
        "link_bw": [400, 46],
        "link_latency": [2_000, 10_000],
        "nodes": nodes,
    }


RANKS = {
    "tp_size": 1,
    "all2all_backend": "deepep_low_latency",
    "max_num_batched_tokens": 1024,
    "max_num_seqs": 128,
}


def ways(path: str) -> dict[str, dict[str, Any]]:
    """The five clusters."""
    two_stages = {"pp_size": 2, "placement_nodes": [0, 1]}
    return {
        "TP16": cluster(path, {"tp_size": 16}),
        "TP8 x PP2": cluster(path, {"tp_size": 8, **two_stages}),
        "DP16EP16": cluster(path, {"data_parallel_size": 16, **RANKS}),
        "DP8EP8 x PP2": cluster(path, {"data_parallel_size": 8, **two_stages, **RANKS}),
        "P/D, DP8EP8 each": cluster(
            path,
            {
                "tp_size": 1,
                "data_parallel_size": 8,
                "pd_type": "prefill",
                "all2all_backend": "deepep_high_throughput",
                "max_num_batched_tokens": 4096,
            },
            {"data_parallel_size": 8, "pd_type": "decode", **RANKS},
        ),
    }


def requests(users: int, count: int, prompt: int, answer: int) -> tuple[Workload, int]:
    """All at once, to be sent by ``users``; lengths within a quarter of their means."""
    generator = np.random.default_rng(2)
    spread = generator.uniform(0.75, 1.25, (count, 2))
    prompts, answers = (spread * (prompt, answer)).astype(int).T
    return Workload.from_columns([0] * count, prompts.tolist(), answers.tolist(), "closed loop"), users


def main(names: list[str]) -> None:
    """Output tokens per second and GPU, and what users see."""
    clusters = ways(model())
    print(
        f"{'load':<24} {'way':<18} {'tok/s/GPU':>9} {'TTFT p50':>10} {'TPOT p50':>9}  KV tokens, each instance"
    )
    for load, sizes in LOADS.items():
        workload, users = requests(*sizes)
        for way, config in clusters.items():
            if names and way not in names:
                continue
            result = penstock.simulate(
                config, workload, max_concurrency=users, record="requests", keep_token_times=False
            )
            rows = result.requests
            seconds = result.summary.simulated_ns / NS_PER_S
            rate = int(rows["output_tokens"].to_numpy().sum()) / seconds / 16
            ttft = float(np.median(rows["ttft_ns"].to_numpy())) / NS_PER_MS
            tpot = float(np.median(rows["tpot_ns"].to_numpy())) / NS_PER_MS
            kv = result.summary.instances[-1].kv_tokens
            print(f"{load:<24} {way:<18} {rate:>9.0f} {ttft:>7.0f} ms {tpot:>6.1f} ms  {kv:,}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
