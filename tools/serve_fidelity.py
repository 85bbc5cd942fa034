"""Compare what a client of `penstock serve` measured with what a run says for the recorded arrivals.

python tools/serve_fidelity.py CLUSTER bench.json SESSION: `bench.json` is what `vllm bench serve --save-result
--save-detailed` wrote, or GuideLLM with `--output kind=json`, SESSION what `penstock serve --record SESSION` did.
Prints TTFT, TPOT and ITL at p50 and p99. GuideLLM keeps no single gaps; what it calls ITL is a request's mean gap, here
TPOT.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import penstock


def of_vllm(bench: dict[str, Any]) -> dict[str, np.ndarray]:
    """Milliseconds, each one's of TTFT and TPOT, and all gaps."""
    ends = [first + sum(gaps) for first, gaps in zip(bench["ttfts"], bench["itls"], strict=True)]
    return {
        "TTFT": np.array(bench["ttfts"]) * 1e3,
        "TPOT": np.array(
            [
                (end - first) * 1e3 / (tokens - 1)
                for end, first, tokens in zip(ends, bench["ttfts"], bench["output_lens"], strict=True)
                if tokens > 1
            ]
        ),
        "ITL": np.concatenate([np.array(gaps) for gaps in bench["itls"]]) * 1e3,
    }


def of_guidellm(bench: dict[str, Any]) -> dict[str, np.ndarray]:
    """Milliseconds, each request's."""
    requests = bench["benchmarks"][0]["requests"]["successful"]
    return {
        "TTFT": np.array([one["time_to_first_token_ms"] for one in requests]),
        "TPOT": np.array([one["inter_token_latency_ms"] for one in requests]),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cluster")
    parser.add_argument("bench")
    parser.add_argument("session")
    arguments = parser.parse_args()
    bench = json.loads(Path(arguments.bench).read_text())
    run = penstock.simulate(arguments.cluster, str(Path(arguments.session) / "workload.jsonl"))
    times = [run.token_times_ns(row["request"]) / 1e6 for row in run.requests.iter_rows(named=True)]
    arrivals = run.requests["arrival_ns"].to_numpy() / 1e6
    said = {
        "TTFT": np.array([one[0] - arrival for one, arrival in zip(times, arrivals, strict=True)]),
        "TPOT": np.array([(one[-1] - one[0]) / (len(one) - 1) for one in times if len(one) > 1]),
        "ITL": np.concatenate([np.diff(one) for one in times]),
    }
    measured = of_guidellm(bench) if "benchmarks" in bench else of_vllm(bench)
    print(f"{'ms':6}{'':5}{'client':>10}{'run':>10}{'apart':>10}{'2 ms + 1%':>11}")
    for name, values in measured.items():
        for q in (50, 99):
            client, simulated = float(np.percentile(values, q)), float(np.percentile(said[name], q))
            apart = client - simulated
            verdict = "within" if abs(apart) <= 2 + simulated / 100 else "beyond"
            print(f"{name:6}p{q:<4}{client:10.2f}{simulated:10.2f}{apart:10.2f}{verdict:>11}")


main()
