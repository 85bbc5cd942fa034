"""Asynchronous scheduling over four stages: Qwen3-30B-A3B in fp8, 128 sequences (vllm#32359).

    python examples/published/async_pp4.py

Published: `-pp 4 --max-num-seqs 128`, 128 random prompts of 2 tokens in and 512 out: 30.8% more throughput and a 31.8%
lower time per output token than with `--no-async-scheduling`. The GPU and when requests come are not published: here
H100 and RTX PRO 6000, all at once and one every 2 ms, and 1 ms of the host a turn. Missing: the 16 warm-up requests.
"""

from __future__ import annotations

from shapes import cluster, run, seconds_taken

from penstock.units import NS_PER_MS
from penstock.workload.workload import Workload

PUBLISHED = (0.308, -0.318)
CHIPS = {"H100": (80, (25, 10_000)), "RTXPRO6000": (96, (40, 10_000))}
PROMPT = 2


def served(hardware: str, gap_ms: int, load: tuple[int, int], asynchronous: bool) -> tuple[float, float]:
    """Output tokens a second and the mean time per output token, ms; ``load`` = (requests, tokens of each answer), one
    each ``gap_ms``."""
    requests, answer = load
    memory, link = CHIPS[hardware]
    config = cluster(
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        hardware,
        memory,
        pp_size=4,
        tp_size=1,
        dtype="fp8",
        link=link,
        engine_overhead={"update_ns": NS_PER_MS},
        async_scheduling=asynchronous,
    )
    arrivals = [i * gap_ms * NS_PER_MS for i in range(requests)]
    workload = Workload.from_columns(arrivals, [PROMPT] * requests, [answer] * requests, "random")
    result = run(config, workload, max_num_seqs=128, max_num_batched_tokens=2048)
    tpot = result.summary.latency.tpot
    assert tpot is not None
    return requests * answer / seconds_taken(result), tpot.mean_ns / NS_PER_MS


def main(requests: int = 128, answer: int = 512) -> None:
    """The gain by chip and spacing."""
    print(f"{'':<28}{'sync':>22}{'async':>22}{'tokens/s':>10}{'TPOT':>8}")
    for hardware in CHIPS:
        for gap_ms in (0, 2):
            off, on = (served(hardware, gap_ms, (requests, answer), way) for way in (False, True))
            name = f"{hardware}, " + (f"one each {gap_ms} ms" if gap_ms else "all at once")
            both = "".join(f"{rate:>9,.0f} t/s {tpot:>5.1f} ms" for rate, tpot in (off, on))
            print(f"{name:<28}{both}{on[0] / off[0] - 1:>+10.1%}{on[1] / off[1] - 1:>+8.1%}")
    print(f"{'published':<72}{PUBLISHED[0]:>+10.1%}{PUBLISHED[1]:>+8.1%}")


if __name__ == "__main__":
    main()
