"""The layer split decides the KV capacity: 8 x L4, Llama-3-70B (vllm#6920).

    python examples/published/uneven_split.py

Published: even split 1,476 blocks and 244.5 s, fewer layers at both ends 3,078 blocks and 167.7 s. The issue says FP8;
its blocks are those of 16-bit weights (8-bit ones would leave ten times as many), so bfloat16 is simulated. Neither the
workload nor the split is published: 200 requests of 1024 in and 256 out, and two layers moved from either end inwards.
"""

from __future__ import annotations

from shapes import cluster, offline, run, seconds_taken

PUBLISHED = ((1476, 244.5), (3078, 167.7))
SPLITS = ((10,) * 8, (9, 10, 10, 11, 11, 10, 10, 9))


def main() -> None:
    """Blocks and time of both splits."""
    times: list[float] = []
    for split, (blocks, published_s) in zip(SPLITS, PUBLISHED, strict=True):
        config = cluster(
            "meta-llama/Meta-Llama-3-70B",
            "L4",
            22.5,
            pp_size=8,
            tp_size=1,
            pp_layer_partition=list(split),
            link=(16, 20_000),
        )
        result = run(config, offline(200, 1024, 256), max_num_batched_tokens=2048)
        times.append(seconds_taken(result))
        got = result.summary.instances[0].kv_tokens // 16
        print(f"{split}: {got} blocks, {times[-1]:.1f} s (published {blocks} blocks, {published_s} s)")
    print(f"time {times[1] / times[0] - 1:+.0%} (published {PUBLISHED[1][1] / PUBLISHED[0][1] - 1:+.0%})")


if __name__ == "__main__":
    main()
