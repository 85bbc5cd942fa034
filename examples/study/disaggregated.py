"""Prefill and decode together or apart: Llama-3.1-70B on 16 H100, four instances of tp 4.

    python examples/study/disaggregated.py docs/images

Colocated with chunked prefill (vLLM's defaults), against 1P3D, 2P2D and 3P1D, over a 400 GB/s link and over a 100
Gbit/s network; chats, and long prompts with short answers. For each: the highest rate of a grid at which nine of ten
requests have their first token and, on average, all others in time; and at one rate for all, what users see and how
busy each instance is. Writes pictures of the rates, and of times to first token and per token at the one rate. Further
arguments name loads (chats, long).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from charts import grouped_bars

import penstock
from penstock.units import NS_PER_MS, NS_PER_S
from penstock.workload.workload import Workload

LINKS = {"400 GB/s": (400, 2_000), "100 Gbit/s": (11.6, 10_000)}
SPLITS = ("colocated", "1P3D", "2P2D", "3P1D")


@dataclass(frozen=True, slots=True)
class Load:
    """Mean lengths, limits on TTFT and TPOT in ms, the rates tried, and the one at which all are looked at, per
    second; for so many seconds."""

    name: str
    prompt: int
    answer: int
    ttft_ms: float
    tpot_ms: float
    rates: Sequence[float]
    common_rate: float
    seconds: float

    def requests(self, rate: float) -> Workload:
        """Poisson arrivals, log-normal lengths."""
        generator = np.random.default_rng(1)
        count = round(rate * self.seconds)
        spread = np.exp(generator.normal(-0.125, 0.5, (count, 2)))
        gaps = generator.exponential(1.0, count)
        prompts = np.clip(spread[:, 0] * self.prompt, 16, 32_000).astype(int)
        answers = np.clip(spread[:, 1] * self.answer, 2, 4_000).astype(int)
        arrivals = (np.cumsum(gaps) / rate * NS_PER_S).astype(int)
        return Workload.from_columns(arrivals.tolist(), prompts.tolist(), answers.tolist(), self.name)


LOADS = (
    Load("chats: 700 in, 250 out", 700, 250, 500, 40, (8, 16, 24, 32), 12, 8),
    Load("long prompts: 8,000 in, 150 out", 8_000, 150, 4_000, 40, (0.5, 1, 1.5, 2), 1, 40),
)


def cluster(split: str, link: tuple[float, int]) -> dict[str, Any]:
    """Four instances on 16 H100."""
    prefills = 0 if split == "colocated" else int(split[0])
    instances: list[dict[str, Any]] = []
    for number in range(4):
        role = None if not prefills else "prefill" if number < prefills else "decode"
        instances.append(
            {
                "model_name": "meta-llama/Llama-3.1-70B",
                "hardware": "H100",
                "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
                "tp_size": 4,
                "pd_type": role,
                # A prefill instance has nobody to hold up: larger chunks.
                "max_num_batched_tokens": 8192 if role == "prefill" else 2048,
            }
        )
    # Two dimensions: the NVLink inside an instance stays what it is, KV takes the outer one.
    nodes = [{"num_instances": 1, "instances": [one]} for one in instances]
    return {
        "num_nodes": 4,
        "link_bw": [400, link[0]],
        "link_latency": [2_000, link[1]],
        "nodes": nodes,
    }


@dataclass(frozen=True, slots=True)
class Point:
    """p90 of TTFT and TPOT in ms, the share of requests within both limits, and the busy share of stages."""

    ttft_ms: float
    tpot_ms: float
    within: float
    busy: tuple[float, ...]


def serve(split: str, link: tuple[float, int], load: Load, rate: float) -> Point:
    """One run. Its first and last tenth of requests are left out."""
    result = penstock.simulate(
        cluster(split, link),
        load.requests(rate),
        engine="vllm-0.32.0",
        record="requests",
        keep_token_times=False,
    )
    rows = result.requests.sort("arrival_ns")
    rows = rows[len(rows) // 10 : -(len(rows) // 10)]
    ttft = rows["ttft_ns"].to_numpy() / NS_PER_MS
    tpot = rows["tpot_ns"].fill_null(0).to_numpy() / NS_PER_MS
    within = float(((ttft <= load.ttft_ms) & (tpot <= load.tpot_ms)).mean())
    end_ns = result.record.end_ns - result.record.first_arrival_ns
    busy = tuple(sum(one.busy_ns) / end_ns / len(one.busy_ns) for one in result.record.totals)
    return Point(float(np.quantile(ttft, 0.9)), float(np.quantile(tpot, 0.9)), within, busy)


def highest_rate(split: str, link: tuple[float, int], load: Load) -> float:
    """The highest of the rates that is good, found by halving; 0 if none is."""
    low, high = -1, len(load.rates)
    while high - low > 1:
        middle = (low + high) // 2
        if serve(split, link, load, load.rates[middle]).within >= 0.9:
            low = middle
        else:
            high = middle
    return load.rates[low] if low >= 0 else 0.0


def look_at(load: Load, folder: Path | None) -> None:
    """All splits and links under one load."""
    pictures: dict[str, dict[str, list[float | None]]] = {"rates": {}, "ttft": {}, "tpot": {}}
    for link, speed in LINKS.items():
        for split in SPLITS:
            if split == "colocated" and link != next(iter(LINKS)):
                for bars in pictures.values():  # nothing goes over the link
                    bars[split].append(bars[split][-1])
                continue
            best = highest_rate(split, speed, load)
            point = serve(split, speed, load, load.common_rate)
            for name, value in (("rates", best), ("ttft", point.ttft_ms), ("tpot", point.tpot_ms)):
                pictures[name].setdefault(split, []).append(value)
            busy = " ".join(f"{share:>4.0%}" for share in point.busy)
            print(
                f"{load.name:<31} {link:<14} {split:<10} {best:>6g} {load.common_rate:>10g} "
                f"{point.ttft_ms:>6.0f} ms {point.tpot_ms:>7.1f} ms  {busy}",
                flush=True,
            )
    titles = {
        "rates": ("Highest rate within the limits", "requests/s"),
        "ttft": (f"p90 TTFT at {load.common_rate:g} requests/s", "ms"),
        "tpot": (f"p90 TPOT at {load.common_rate:g} requests/s", "ms"),
    }
    if folder is not None:
        kind = load.name.split(":")[0]
        for name, (title, unit) in titles.items():
            picture = grouped_bars(f"{title}, 16 H100, {kind}", unit, list(LINKS), pictures[name])
            (folder / f"apart-{kind.replace(' ', '-')}-{name}.svg").write_text(picture, encoding="utf-8")


def main(folder: Path | None, names: list[str]) -> None:
    """The loads whose names begin with one of ``names``, or all."""
    heading = f"{'load':<31} {'KV over':<14} {'split':<10} {'req/s':>6}   at req/s  p90 TTFT   p90 TPOT"
    print(f"{heading}  busy, by instance")
    for load in LOADS:
        if not names or load.name.startswith(tuple(names)):
            look_at(load, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None, sys.argv[2:])
