"""Strong scaling of one long prompt: SGLang at 128K tokens in chunks over eight stages (LMSYS, H20, 2026-01).

    python examples/published/strong_scaling.py

Published for Qwen3-235B-A22B in FP8 at PP8 x TP4: 10.54 s to the first token, PP1 x TP4 about 55.5 s; strong scaling
69.6% with fixed chunks of 6K, 76.9% with chunks that shrink from 18K as the context grows. Equal chunks of equal cost
would give m / (m + p - 1) = 75% at 6K, for m chunks over p stages. The second table is the study of the chunk: small
ones fill the pipeline soon, large ones leave stages idle at both ends; with a first chunk of 18K the policy
``sglang-dynamic`` makes the later ones so much shorter that all take equal time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from shapes import cluster, offline, run

PROMPT, CHUNK, FIRST_CHUNK, STAGES = 131_072, 6_144, 18_432, 8
SHAPE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "torch_dtype": "bfloat16",
    "hidden_size": 4096,
    "num_hidden_layers": 94,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
    "max_position_embeddings": 262144,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
}


def first_token_s(model: str, pp_size: int, chunk: int, policy: str = "vllm") -> float:
    """Time to the first token of one prompt alone."""
    config = cluster(model, "H20", 96, pp_size=pp_size, tp_size=4, link=(300, 5_000), policy=policy)
    result = run(config, offline(1, PROMPT, 1), max_num_batched_tokens=chunk)
    ttft = result.summary.latency.ttft
    assert ttft is not None
    return ttft.mean_ns / 1e9


def main() -> None:
    """TTFT by stages, then by chunk, each with its share of the ideal."""
    path = Path(tempfile.mkdtemp()) / "qwen3-235b-a22b-fp8.json"
    path.write_text(json.dumps(SHAPE), encoding="utf-8")
    model = str(path)
    alone = first_token_s(model, 1, CHUNK)
    print(f"pp 1: {alone:.2f} s (published about 55.5 s)")
    for pp_size in (2, 4, STAGES):
        taken = first_token_s(model, pp_size, CHUNK)
        print(f"pp {pp_size}: {taken:.2f} s, strong scaling {alone / (pp_size * taken):.1%}")
    print("published at pp 8: 10.54 s; 69.6% with fixed 6K chunks")
    print(f"{'chunk':<22} {'TTFT s':>7} {'of eight stages':>16} {'equal chunks':>13}")
    for chunk in (2_048, 4_096, 6_144, 8_192, 12_288, 18_432):
        taken = first_token_s(model, STAGES, chunk)
        chunks = -(-PROMPT // chunk)
        equal = chunks / (chunks + STAGES - 1)
        share = first_token_s(model, 1, chunk) / (STAGES * taken)
        print(f"{chunk:<22} {taken:>7.2f} {share:>16.1%} {equal:>13.1%}")
    dynamic = f"sglang-dynamic(first_chunk={FIRST_CHUNK})"
    taken = first_token_s(model, STAGES, FIRST_CHUNK, dynamic)
    share = alone / (STAGES * taken)
    print(f"{f'{FIRST_CHUNK}, shrinking':<22} {taken:>7.2f} {share:>16.1%}   published 76.9%")


if __name__ == "__main__":
    main()
