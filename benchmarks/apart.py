"""What KV that moves costs: ``python -m benchmarks.apart``.

Four instances of two stages serve every request whole; beside that the same requests with prefill and decode apart
(two and two; the decode side reads KV, or the prefill side pushes it), and with a tier of host memory below each of
the four. All runs are of this process, in turn, so that whatever else the machine does meets all alike. The table
gives the best CPU time of the repeats, and how many times that of the first case it is.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from benchmarks.inputs import sharegpt_like
from penstock.api import Run, load_scenario
from penstock.workload.workload import Workload

_STAGES = {"tp_size": 1, "pp_size": 2, "num_npus": 2}


def _cluster(roles: tuple[str | None, ...], transfer: str | None = None, **members: Any) -> dict[str, Any]:
    instances = [
        {
            "model_name": "meta-llama/Llama-3.1-8B",
            "hardware": "H100",
            "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
            "pd_type": role,
            **_STAGES,
            **members,
        }
        for role in roles
    ]
    node = {
        "num_instances": len(instances),
        "cpu_mem": {"mem_size": 512, "mem_bw": 50, "mem_latency": 1000},
        "instances": instances,
    }
    config: dict[str, Any] = {"num_nodes": 1, "link_bw": 400, "link_latency": 5000, "nodes": [node]}
    if transfer is not None:
        config["kv_transfer"] = {"kind": transfer}
    return config


_APART = ("prefill", "prefill", "decode", "decode")
CASES: dict[str, dict[str, Any]] = {
    "4 x pp 2, every request whole": _cluster((None,) * 4),
    "2P2D pp 2, pulled": _cluster(_APART, "pull"),
    "2P2D pp 2, pushed": _cluster(_APART, "push"),
    "4 x pp 2 with a tier in host memory": _cluster((None,) * 4, kv_offloading={}),
}


def cpu_s(config: dict[str, Any], workload: Workload) -> float:
    """The CPU time of one run, from built instances to its results."""
    run = Run(load_scenario(config, workload, {"record": "requests", "keep_token_times": False}))
    before = time.process_time()
    run.run()
    return time.process_time() - before


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apart", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--rate", type=float, action="append", help="requests per second [24 and 80]")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--case", action="append", help="only cases with this in their name, beside the first"
    )
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} when it began; {arguments.requests:,} requests\n")
    print("| requests/s | case | CPU s | times the first |")
    print("| ---: | --- | ---: | ---: |")
    chosen = [
        name
        for place, name in enumerate(CASES)
        if not place or not arguments.case or any(part in name for part in arguments.case)
    ]
    for rate in arguments.rate or (24.0, 80.0):
        workload = sharegpt_like(arguments.requests, rate)
        best = dict.fromkeys(chosen, float("inf"))
        for _ in range(arguments.repeats):
            for name in chosen:
                best[name] = min(best[name], cpu_s(CASES[name], workload))
        for name in chosen:
            print(
                f"| {rate:g} | {name} | {best[name]:.2f} | {best[name] / best[chosen[0]]:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
