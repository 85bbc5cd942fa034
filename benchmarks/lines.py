"""A profile by line of the hot loop: 512 requests running at pp 4."""

from __future__ import annotations

import io
from types import FunctionType
from typing import Any

from benchmarks.inputs import SHAPES, cluster_config, profile_root, sharegpt_like

REQUESTS = 3_000
RUNNING = 512


def profile() -> str:
    """The text that line_profiler prints, in microseconds; its own overhead weighs on short lines."""
    from line_profiler import LineProfiler

    from penstock.api import load_scenario
    from penstock.cost.attention import AttentionLookup
    from penstock.cost.stage import TabulatedStageCost
    from penstock.engine.instance import Instance
    from penstock.engine.simulation import Simulation
    from penstock.pipeline.pipeline import Pipeline
    from penstock.scheduler.cohort import Cohort
    from penstock.scheduler.scheduler import Scheduler
    from penstock.scheduler.step import Step

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
        Instance,
        Scheduler,
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
    lines.runcall(simulation.run)
    text = io.StringIO()
    lines.print_stats(text, output_unit=1e-6, stripzeros=True, sort=True)
    return text.getvalue()
