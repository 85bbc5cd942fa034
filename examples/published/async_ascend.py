"""A host between the steps, and who hides it: TP16 against TP4 x PP4 on 16 Ascend NPUs (vllm-ascend#7136, #7143).

    python examples/published/async_ascend.py

Published, 160 requests: the mean time of a request, to its first token, and per output token. Neither the model nor
the lengths are; latency less TTFT over TPOT gives about 256 tokens an answer. The chip is not in the catalogue, so A100
with 64 GB stands in, on two nodes of eight, with a model of DeepSeek-V3's shape in 8 bits, prompts of 2,048 tokens and
64 running requests: read ratios only. The host's time is not published either, so it is 0, 10 and 20 ms a turn.
"""

from __future__ import annotations

from typing import Any

from shapes import model_file, offline, run

from penstock.units import NS_PER_MS, NS_PER_S

PUBLISHED = {
    "TP16": (134.3, 68.0, 257.2),
    "TP4 x PP4": (107.3, 54.2, 209.6),
    "async scheduling": (60.8, 31.3, 111.7),
    "async sends too": (57.3, 29.4, 110.2),
}
DEEPSEEK_V3 = {
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
}
STAGES = {"pp_size": 4, "tp_size": 4, "placement_nodes": [0, 0, 1, 1]}
WAYS: dict[str, dict[str, Any]] = {
    "TP16": {"pp_size": 1, "tp_size": 16},
    "TP4 x PP4": {**STAGES, "blocking_sends": True},
    "async scheduling": {**STAGES, "blocking_sends": True, "async_scheduling": True},
    "async sends too": {**STAGES, "async_scheduling": True},
}


def served(way: dict[str, Any], host_ms: int, requests: int, answer: int) -> tuple[float, float, float]:
    """Mean latency and time to first token, s, and per output token, ms."""
    instance = {
        "model_name": model_file("deepseek-v3", DEEPSEEK_V3),
        "dtype": "int8",
        "hardware": "A100-80GB",
        "npu_mem": {"mem_size": 64, "mem_bw": 2040, "mem_latency": 0},
        "num_npus": 16,
        "engine_overhead": {"update_ns": host_ms * NS_PER_MS},
    }
    nodes = [{"num_instances": 1, "instances": [instance | way]}, {"num_instances": 0, "instances": []}]
    config = {"num_nodes": 2, "link_bw": [200, 25], "link_latency": [5_000, 10_000], "nodes": nodes}
    workload = offline(requests, 2048, answer)
    latency = run(config, workload, max_num_seqs=64, max_num_batched_tokens=8192).summary.latency
    assert latency.latency is not None
    assert latency.ttft is not None
    assert latency.tpot is not None
    return (
        latency.latency.mean_ns / NS_PER_S,
        latency.ttft.mean_ns / NS_PER_S,
        latency.tpot.mean_ns / NS_PER_MS,
    )


def main(requests: int = 160, answer: int = 256, hosts_ms: tuple[int, ...] = (0, 10, 20)) -> None:
    """Each way beside TP16: latency, time to first token and per output token."""
    print(f"{'':<18}" + "".join(f"{f'host {host} ms':>34}" for host in hosts_ms) + f"{'published':>34}")
    first: list[tuple[float, ...]] = []
    for name, way in WAYS.items():
        found = [*(served(way, host, requests, answer) for host in hosts_ms), PUBLISHED[name]]
        first = first or found
        texts = (
            f"{one[0]:>6.1f} s {one[1]:>4.1f} s {one[2]:>5.1f} ms {one[2] / base[2]:>4.0%}"
            for one, base in zip(found, first, strict=True)
        )
        print(f"{name:<18}" + "".join(f"{text:>34}" for text in texts))


if __name__ == "__main__":
    main()
