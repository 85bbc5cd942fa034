"""Ranks in lock-step: ``python -m benchmarks.lockstep``.

Each case in machine code and in Python, the engine alone and a whole run with its account of bubbles, one process each
and in turn. The rate is that of forwards of a rank, dummy batches included, per CPU second of the run; the best of the
repeats counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from typing import Any

from benchmarks.inputs import sharegpt_like
from benchmarks.measure import run_child
from penstock.api import Run, load_scenario
from penstock.engine.simulation import Simulation
from penstock.workload.workload import Workload

WAYS: dict[str, tuple[str, ...]] = {
    "engine alone": ("PENSTOCK_PURE=0", "--alone"),
    "whole run": ("PENSTOCK_PURE=0",),
    "Python, engine alone": ("PENSTOCK_PURE=1", "--alone"),
    "Python, whole run": ("PENSTOCK_PURE=1",),
}


def cluster(ranks: int, **members: Any) -> dict[str, Any]:
    """A group of so many ranks on H200."""
    instance = {
        "model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "hardware": "H200",
        "npu_mem": {"mem_size": 140, "mem_bw": 4800, "mem_latency": 0},
        "tp_size": 1,
        "data_parallel_size": ranks,
        **members,
    }
    node = {"num_instances": 1, "instances": [instance]}
    return {"num_nodes": 1, "link_bw": 400, "link_latency": 5000, "nodes": [node]}


def burst(requests: int) -> Workload:
    """Short prompts with long answers of many lengths, all at once."""
    columns = [0] * requests, [100] * requests, [20_000 + 370 * number for number in range(requests)]
    return Workload.from_columns(*columns, "long answers")


CASES: dict[str, tuple[dict[str, Any], tuple[int, float]]] = {
    "8 ranks, 64 long answers": (cluster(8), (64, 0.0)),
    "8 ranks, 8/s": (cluster(8), (4_000, 8.0)),
    "8 ranks, 80/s": (cluster(8), (10_000, 80.0)),
    "8 ranks, 80/s, async scheduling": (cluster(8, async_scheduling=True), (10_000, 80.0)),
    "4 ranks, pp 2, 40/s": (cluster(4, pp_size=2), (5_000, 40.0)),
}


def measured(name: str, *, alone: bool) -> float:
    """Forwards of a rank per CPU second of one run, from built instances to its results."""
    config, (requests, rate) = CASES[name]
    workload = sharegpt_like(requests, rate) if rate else burst(requests)
    scenario = load_scenario(config, workload, {"record": "requests", "keep_token_times": False})
    run = Run(scenario)
    engine = Simulation(scenario.cluster, workload, scenario.options)
    before = time.process_time()
    record = engine.run() if alone else run.run().record
    cpu_s = time.process_time() - before
    notes = [note for total in record.totals for note in total.notes]
    forwards = [found[1] for note in notes if (found := re.search(r"of ([\d,]+) forwards were", note))]
    return sum(int(each.replace(",", "")) for each in forwards) / cpu_s


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lockstep", description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--case", action="append", help="only cases with this in their name")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measured(arguments.child, alone=arguments.alone)))
        return
    print(f"load average {os.getloadavg()[0]:.1f} when it began\n")
    print(f"| case | {' | '.join(WAYS)} |\n| --- |{' ---: |' * len(WAYS)}")
    for name in CASES:
        if arguments.case and not any(part in name for part in arguments.case):
            continue
        best = dict.fromkeys(WAYS, 0.0)
        for _ in range(arguments.repeats):
            for way, (setting, *options) in WAYS.items():
                command = [sys.executable, "-m", "benchmarks.lockstep", "--child", name, *options]
                _, output = run_child(["env", setting, *command])
                best[way] = max(best[way], float(json.loads(output.splitlines()[-1])))
        print(f"| {name} | {' | '.join(f'{rate:,.0f}' for rate in best.values())} |", flush=True)


if __name__ == "__main__":
    main()
