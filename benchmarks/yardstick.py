# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false
"""The tests' reference scheduler, a plain loop over requests, on the same workload, options and costs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.inputs import REPOSITORY
from penstock.api import Scenario
from penstock.engine.build import build_instances

sys.path.insert(0, str(REPOSITORY / "tests"))
from reference.engine import ReferenceEngine, Schedule
from reference.scheduler import ReferenceScheduler


class _WithoutTrace(ReferenceEngine):
    """Its trace lists every request of every step: left out, as it is not what is compared."""

    def _row(self, schedule: Schedule, free_before: int) -> dict[str, Any]:
        del free_before
        self._note_requests(schedule)
        return {"iter": len(self.trace.iterations)}


def reference_run(scenario: Scenario) -> Callable[[], int]:
    """A run of the scenario's first instance; calling it returns the number of steps with tokens."""
    root = scenario.options.profile_root
    built = build_instances(scenario.cluster, None if root is None else Path(root))[0]
    options = built.spec.scheduler
    scheduler = ReferenceScheduler(options, built.deployment.memory.num_gpu_blocks, built.spec.pp_size)
    requests = list(scenario.workload.requests())
    engine = _WithoutTrace(scheduler, built.cost, requests)
    engine.trace.requests = {
        request.index: {
            "first_token_ns": None,
            "token_times_ns": [],
            "num_preemptions": 0,
            "resumes": [],
        }
        for request in requests
    }

    def run() -> int:
        steps = 0
        submit = engine.pipeline.submit

        def counted(*arguments: Any) -> Any:
            nonlocal steps
            steps += 1
            return submit(*arguments)

        engine.pipeline.submit = counted
        engine.run()
        return steps

    return run
