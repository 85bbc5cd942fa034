"""More link bandwidth may change nothing: two stages on two GH200 (vllm#6610).

    python examples/published/link_bandwidth.py

Published: at PP2 on GH200, a faster link between the nodes made no difference. A decode step sends
two tensors of 8,192 x 2 bytes a sequence: at 64 sequences 2 MiB, against milliseconds of compute. The model and load
of the issue are not given in numbers: Llama-3.1-70B in fp8 here, 256 requests of 512 in and 256 out.
"""

from __future__ import annotations

from shapes import cluster, offline, run, seconds_taken


def main() -> None:
    """Throughput by bandwidth."""
    first: float | None = None
    for gigabytes in (3, 12.5, 25, 50, 100, 400):
        config = cluster(
            "meta-llama/Llama-3.1-70B",
            "GH200",
            96,
            pp_size=2,
            tp_size=1,
            dtype="fp8",
            link=(gigabytes, 10_000),
        )
        result = run(config, offline(256, 512, 256), max_num_seqs=128, max_num_batched_tokens=2048)
        rate = 256 * 256 / seconds_taken(result)
        first = first or rate
        print(f"{gigabytes:>6} GB/s: {rate:8.1f} output tokens/s ({rate / first - 1:+.1%})")


if __name__ == "__main__":
    main()
