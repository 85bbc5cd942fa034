"""Eight GPUs that only prefill: eight stages against tensor parallelism over all (LMSYS on Kimi-K3, sglang#34815).

    python examples/published/prefill_pp8.py

Published for Kimi-K3 on GB300: at prompts of 8K tokens PP8 has 1.45 to 1.72 times the prefill capacity of TP8 with the
experts shared out. In the issue the same PP8 does badly: TTFT p50 31.1 s against 2.33 s of TP8, with 1 to 12 requests
waiting at 1.1 to 1.6 thousand tokens a second, which it puts down to the control path between prefill and decode. That
is not simulated. Kimi-K3's shape is not at hand: Kimi-K2's stands in, in MXFP4. Its kernels are the roofline's, chunks
are 8,192 tokens, SGLang's slots are filled by vLLM's rules, and answers end with their first token.
"""

from __future__ import annotations

from typing import Any

from shapes import model_file, run, seconds_taken

from penstock.units import NS_PER_MS, NS_PER_S
from penstock.workload.workload import Workload

KIMI_K2 = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "first_k_dense_replace": 1,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_routed_experts": 384,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 163840,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
WAYS: dict[str, dict[str, Any]] = {
    "TP8, experts shared out": {"tp_size": 8, "enable_expert_parallel": True},
    "TP8": {"tp_size": 8, "enable_expert_parallel": False},
    "PP8": {"tp_size": 1, "pp_size": 8},
}
PROMPT = 8192


def cluster(way: dict[str, Any]) -> dict[str, Any]:
    """Eight GB300 in one domain of NVLink."""
    instance = {
        "model_name": model_file("kimi-k2", KIMI_K2),
        "hardware": "GB300",
        "npu_mem": {"mem_size": 277.5, "mem_bw": 8000, "mem_latency": 0},
        "num_npus": 8,
        "dtype": "fp4",
    }
    nodes = [{"num_instances": 1, "instances": [instance | way]}]
    return {"num_nodes": 1, "link_bw": 800, "link_latency": 2_000, "nodes": nodes}


def served(way: dict[str, Any], requests: int, gap_ns: int) -> tuple[float, float]:
    """Prompt tokens a second, and the time to first token at p50, s; one request each ``gap_ns``."""
    arrivals = [i * gap_ns for i in range(requests)]
    workload = Workload.from_columns(arrivals, [PROMPT] * requests, [1] * requests, "prompts")
    result = run(cluster(way), workload, max_num_batched_tokens=PROMPT, max_num_seqs=256, engine="sglang")
    ttft = result.summary.latency.ttft
    assert ttft is not None
    return requests * PROMPT / seconds_taken(result), ttft.p50_ns / NS_PER_S


def main(requests: int = 128) -> None:
    """Capacity with all prompts there, and the time to first token at rates."""
    first: float | None = None
    gaps = (1600, 400, 200)
    print(f"{'':<26}{'capacity':>22}" + "".join(f"{f'TTFT, one each {gap} ms':>26}" for gap in gaps))
    for name, way in WAYS.items():
        rate, _ = served(way, requests, 0)
        first = first or rate
        waits = [served(way, requests, gap * NS_PER_MS)[1] for gap in gaps]
        print(
            f"{name:<26}{rate:>11,.0f} t/s {rate / first:>4.2f}x"
            + "".join(f"{wait:>24.3f} s" for wait in waits)
        )
    print("published: PP8 1.45x to 1.72x the capacity of TP8 with the experts shared out")


if __name__ == "__main__":
    main()
