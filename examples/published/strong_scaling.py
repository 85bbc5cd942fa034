"""Strong scaling of one long prompt: SGLang at 128K with chunks of 6K over eight stages (LMSYS, H20, 2026-01).

    python examples/published/strong_scaling.py

Published for Qwen3-235B-A22B in FP8 at PP8 x TP4: 10.54 s to the first token, PP1 x TP4 about 55.5 s; strong scaling
69.6% with fixed 6K chunks, 76.9% with dynamic ones. Equal chunks alone would give m / (m + p - 1) = 75%. Mixtures of
experts are not simulated: the dense equivalent has the layers, the attention and the *active* width of the experts
(8 x 1536). Dynamic chunk sizes are not simulated here either.
"""

from __future__ import annotations

from shapes import cluster, dense_model, offline, run

PROMPT, CHUNK = 131_072, 6_144


def first_token_s(model: str, pp_size: int) -> float:
    """Time to the first token of one prompt alone."""
    config = cluster(model, "H20", 96, pp_size=pp_size, tp_size=4, dtype="fp8", link=(300, 5_000))
    result = run(config, offline(1, PROMPT, 1), max_num_batched_tokens=CHUNK)
    ttft = result.summary.latency.ttft
    assert ttft is not None
    return ttft.mean_ns / 1e9


def main() -> None:
    """TTFT by stages and the share of the ideal."""
    model = dense_model(
        "qwen3-235b-dense-equivalent",
        hidden_size=4096,
        intermediate_size=8 * 1536,
        num_hidden_layers=94,
        num_attention_heads=64,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=262144,
    )
    alone = first_token_s(model, 1)
    print(f"pp 1: {alone:.2f} s (published about 55.5 s)")
    for pp_size in (2, 4, 8):
        taken = first_token_s(model, pp_size)
        print(f"pp {pp_size}: {taken:.2f} s, strong scaling {alone / (pp_size * taken):.1%}")
    print("published at pp 8: 10.54 s; 69.6% with fixed 6K chunks")


if __name__ == "__main__":
    main()
