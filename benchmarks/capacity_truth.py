"""Capacities from runs of at most 2,000 requests beside those from runs of 100,000, on random deployments.

    python -m benchmarks.capacity_truth [--deployments 20] [--from 0]

Each line says the short answer with its interval, and the edge of one realisation of 100,000 requests, found to half
a per cent; a table follows. Results go to ``outputs/capacity_truth.json``. All twenty take some ten minutes of one core
with the engine in machine code.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.explore.capacity import Capacity, CapacityOptions, find_capacity
from penstock.explore.load_test import LoadTest
from penstock.explore.slo import parse_slo
from penstock.explore.steady_state import SteadyState
from penstock.spec.load import load_cluster
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.offered_load import Arrivals, OfferedLoad

RECORD = Path("outputs/capacity_truth.json")
SHORT = 2_000
LONG = 100_000
OPTIONS = CapacityOptions(seeds=3, tolerance=0.05, requests=1_000, max_requests=SHORT)


def deployment(number: int) -> LoadTest:
    """The same one for the same number: a model of 8B on one to eight GPUs, and what it is asked to hold."""
    rng = random.Random(1000 + number)
    pp, tp = rng.choice([1, 2, 4]), rng.choice([1, 2])
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": rng.choice(["H100", "A100-80GB", "L40S"]),
        "npu_mem": {"mem_size": 48, "mem_bw": 2000, "mem_latency": 0},
        "tp_size": tp,
        "pp_size": pp,
        "max_num_seqs": rng.choice([8, 16, 64]),
        "max_num_batched_tokens": rng.choice([512, 2048]),
    }
    replicas = rng.choice([1, 2])
    node = {"num_instances": replicas, "instances": [instance] * replicas}
    cluster = {"num_nodes": 1, "link_bw": 64, "link_latency": 5000, "nodes": [node]}
    inputs = parse_lengths(rng.choice(["lognormal:400,0.7", "uniform:50,600", "fixed:300"]), "")
    outputs = parse_lengths(rng.choice(["uniform:4,24", "lognormal:20,0.5"]), "")
    slo = rng.choice(["ttft_p90<200ms,tpot_p90<50ms", "ttft_p99<500ms", "ttft_mean<150ms,tpot_p99<80ms"])
    recipe = Recipe(num_requests=SHORT, input_tokens=inputs, output_tokens=outputs, seed=number)
    arrivals = Arrivals(*rng.choice([("poisson", 1.0), ("gamma", 0.5)]))
    return LoadTest(load_cluster(cluster), OfferedLoad(generate(recipe), arrivals, recipe), parse_slo(slo))


def long_edge(load_test: LoadTest, around: float) -> float:
    """The edge of one realisation of ``LONG`` requests, to half a per cent: the middle of the last bracket."""

    def holds(rate: float) -> bool:
        run = load_test.run_at(rate, 0, LONG)[1]
        assert run is not None
        return SteadyState(rate, (run,), load_test.slo).holds

    low = high = around
    step = 1.03
    if holds(around):
        while holds(high := high * step):
            low = high
    else:
        while not holds(low := low / step):
            high = low
    while high > low * 1.005:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return math.sqrt(low * high)


def row(number: int) -> dict[str, Any]:
    """One deployment, both ways."""
    load_test = deployment(number)
    started = time.perf_counter()
    found: Capacity = find_capacity(load_test, OPTIONS, explain=False)
    took = time.perf_counter() - started
    edge = long_edge(load_test, found.rate_per_s)
    return {
        "deployment": number,
        "rate_per_s": found.rate_per_s,
        "low_per_s": found.low_per_s,
        "high_per_s": found.high_per_s if math.isfinite(found.high_per_s) else None,
        "requests": found.requests,
        "runs": len(found.trials),
        "long_per_s": float(f"{edge:.5g}"),
        "inside": found.low_per_s <= edge <= found.high_per_s,
        "short_s": round(took, 1),
        "both_s": round(time.perf_counter() - started, 1),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, and what comes out."""
    lines = ["| | requests/s | 95% interval | one run of 100,000 | inside |", "|---|---|---|---|---|"]
    for one in rows:
        high = "unknown" if one["high_per_s"] is None else f"{one['high_per_s']:.4g}"
        interval = f"{one['low_per_s']:.4g} to {high}"
        inside = "yes" if one["inside"] else "no"
        lines.append(
            f"| {one['deployment']} | {one['rate_per_s']:.4g} | {interval} | {one['long_per_s']:.4g} | {inside} |"
        )
    off = statistics.median(one["long_per_s"] / one["rate_per_s"] - 1 for one in rows)
    inside = sum(one["inside"] for one in rows)
    lines += ["", f"{inside} of {len(rows)} inside; the long ones are {off:+.1%} off at the median"]
    return "\n".join(lines)


def main() -> None:
    """All deployments, a line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deployments", type=int, default=20)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--output", type=Path, default=RECORD)
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for number in range(given.first, given.first + given.deployments):
        rows.append(row(number))
        print(json.dumps(rows[-1]), flush=True)
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
