"""One case inside its own process: ``python -m benchmarks.worker JSON`` prints its figures as JSON.

A job: ``shape`` (of ``inputs.SHAPES``), ``requests``, ``max_num_seqs``; ``burst`` (all arrive at 0) or 10 requests a
second per GPU; ``prefixes`` and ``caching``; ``mode`` (of ``inputs.MODES``); ``what``: ``run`` (as
``penstock.simulate``, bubbles accounted), ``engine`` (no listener) or ``reference`` (the tests' per-request scheduler);
``repeats``, ``seconds`` to stop repeating after.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.inputs import RATE_PER_GPU, SHAPES, cluster_config, profile_root, sharegpt_like

if TYPE_CHECKING:
    from penstock.api import Scenario
    from penstock.workload.workload import Workload

WARM_UP_REQUESTS = 200


def main() -> None:
    """Run the job on the command line."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    shape = SHAPES[job["shape"]]
    rate = None if job["burst"] else RATE_PER_GPU * shape.gpus
    before = time.process_time()
    workload = sharegpt_like(job["requests"], rate, prefixes=job["prefixes"])
    generating_s = time.process_time() - before
    scenario = _scenario(job, workload)
    prepare = {"run": _whole_run, "engine": _bare_engine, "reference": _reference}[job["what"]]
    once = prepare(scenario)
    started_s = time.process_time() - generating_s
    if job["repeats"] > 1:
        warm = sharegpt_like(WARM_UP_REQUESTS, rate, prefixes=job["prefixes"])
        prepare(_scenario(job, warm))()
    times: list[float] = []
    iterations = 0
    while len(times) < job["repeats"] and sum(times) <= job["seconds"]:
        before = time.process_time()
        iterations = once()
        times.append(time.process_time() - before)
        if len(times) < job["repeats"]:
            once = prepare(scenario)
    print(
        json.dumps(
            {
                "iterations": iterations,
                "startup_cpu_s": started_s,
                "repeats": len(times),
                "min_cpu_s": min(times),
                "median_cpu_s": statistics.median(times),
            }
        )
    )


def _scenario(job: dict[str, Any], workload: Workload) -> Scenario:
    from penstock.api import load_scenario

    root = profile_root()
    options: dict[str, Any] = {
        "record": "requests",
        "keep_token_times": False,
        "max_num_seqs": job["max_num_seqs"],
        "enable_prefix_caching": job["caching"],
        "profile_root": None if root is None else str(root),
    }
    return load_scenario(cluster_config(SHAPES[job["shape"]], job["mode"]), workload, options)


def _whole_run(scenario: Scenario) -> Callable[[], int]:
    from penstock.api import Run

    run = Run(scenario)
    return lambda: sum(totals.iterations for totals in run.run().record.totals)


def _bare_engine(scenario: Scenario) -> Callable[[], int]:
    from penstock.engine.simulation import Simulation

    simulation = Simulation(scenario.cluster, scenario.workload, scenario.options)
    return lambda: sum(totals.iterations for totals in simulation.run().totals)


def _reference(scenario: Scenario) -> Callable[[], int]:
    from benchmarks.yardstick import reference_run

    return reference_run(scenario)


if __name__ == "__main__":
    main()
