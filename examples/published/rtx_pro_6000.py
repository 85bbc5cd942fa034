"""Who gains and who loses from stages: RTX PRO 6000, output tokens/s per GPU at PP 1/2/4/8 (NVIDIA TensorRT-LLM).

    python examples/published/rtx_pro_6000.py

Published in FP4 at full load, TP1, 1024 in and 1024 out: a dense 70B gains at PP2 and loses slowly after, a small
mixture of experts loses steadily. Missing here: fp4 (fp8 is simulated, so weights are twice as large and rates half)
and mixtures of experts (a dense model of the active width stands in, so its weights are a tenth and a decode step does
not read all experts). A third of the published requests; at
most 512 run at once, over all stages together, as vLLM counts them.
"""

from __future__ import annotations

from shapes import cluster, dense_model, offline, run, seconds_taken

PUBLISHED = {
    "Llama-3.3-70B": (1724, 1881, 1798, 1545),
    "Qwen3-30B, dense equivalent": (9908, 8187, 6931, 3065),
}
REQUESTS, PROMPT, ANSWER = 1000, 1024, 1024


def rate(model: str, pp_size: int) -> float:
    """Output tokens per second and GPU."""
    config = cluster(
        model,
        "RTXPRO6000",
        96,
        pp_size=pp_size,
        tp_size=1,
        dtype="fp8",
        kv_cache_dtype="fp8",
        link=(40, 10_000),
    )
    workload = offline(REQUESTS, PROMPT, ANSWER)
    result = run(config, workload, max_num_seqs=512, max_num_batched_tokens=4096)
    return REQUESTS * ANSWER / seconds_taken(result) / pp_size


def main() -> None:
    """A table of both models."""
    small = dense_model(
        "qwen3-30b-dense-equivalent",
        hidden_size=2048,
        intermediate_size=8 * 768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
    )
    models = ("meta-llama/Llama-3.3-70B-Instruct", small)
    for model, (name, published) in zip(models, PUBLISHED.items(), strict=True):
        rates = [rate(model, pp_size) for pp_size in (1, 2, 4, 8)]
        print(name)
        print("  simulated", "  ".join(f"{value:6.0f} ({value / rates[0] - 1:+4.0%})" for value in rates))
        print(
            "  published",
            "  ".join(f"{value:6.0f} ({value / published[0] - 1:+4.0%})" for value in published),
        )


if __name__ == "__main__":
    main()
