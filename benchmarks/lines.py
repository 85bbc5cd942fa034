"""A profile by line of the hot loop: 512 requests running at pp 4, as a Markdown table."""

from __future__ import annotations

import linecache
from pathlib import Path
from types import FunctionType
from typing import Any

from benchmarks.inputs import REPOSITORY, SHAPES, cluster_config, profile_root, sharegpt_like

REQUESTS = 3_000
RUNNING = 512
SHOWN = 30
LONGEST_LINE = 72


def profile() -> str:
    """The lines on which most time passes, calls included; the profiler's own overhead weighs on short lines."""
    from line_profiler import LineProfiler

    from penstock.api import load_scenario
    from penstock.cost.attention import AttentionLookup
    from penstock.cost.stage import TabulatedStageCost
    from penstock.engine.local_pipeline import LocalPipeline
    from penstock.engine.replica import Replica
    from penstock.engine.simulation import Simulation
    from penstock.pipeline.pipeline import Pipeline
    from penstock.recording.turn_log import TurnLog
    from penstock.scheduler.cohort import Cohort
    from penstock.scheduler.step import Step
    from penstock.scheduler.vllm import VllmScheduler

    root = profile_root()
    options: dict[str, Any] = {
        "record": "requests",
        "keep_token_times": False,
        "max_num_seqs": RUNNING,
        "profile_root": None if root is None else str(root),
    }
    scenario = load_scenario(cluster_config(SHAPES["pp4"]), sharegpt_like(REQUESTS, None), options)
    lines = LineProfiler()
    for owner in (
        Simulation,
        Replica,
        LocalPipeline,
        TurnLog,
        VllmScheduler,
        Cohort,
        Step,
        Pipeline,
        TabulatedStageCost,
        AttentionLookup,
    ):
        for member in vars(owner).values():
            if isinstance(member, FunctionType):
                lines.add_function(member)
    simulation = Simulation(scenario.cluster, scenario.workload, scenario.options)
    record = lines.runcall(simulation.run)
    return _table(lines.get_stats(), sum(totals.iterations for totals in record.totals))


def _table(stats: Any, iterations: int) -> str:
    """The ``SHOWN`` dearest lines of the run, in the order of the files."""
    rows: list[tuple[float, str, int, int, str]] = []
    for (file, _, name), timings in stats.timings.items():
        for number, hits, ticks in timings:
            rows.append((ticks * stats.unit * 1e6, file, number, hits, name))
    whole_us = max(row[0] for row in rows)
    dearest = sorted(rows, reverse=True)[:SHOWN]
    head = ("| line | in | times a step | us a step | share |", "| --- | --- | ---: | ---: | ---: |")
    body = [
        f"| `{linecache.getline(file, number).strip()[:LONGEST_LINE]}` | {_place(file)}:{number} `{name}` | "
        f"{hits / iterations:.2f} | {us / iterations:.2f} | {us / whole_us:.0%} |"
        for us, file, number, hits, name in sorted(dearest, key=lambda row: row[1:3])
    ]
    return "\n".join((*head, *body)) + "\n"


def _place(file: str) -> str:
    return Path(file).relative_to(REPOSITORY / "src" / "penstock").as_posix()
