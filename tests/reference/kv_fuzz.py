"""The fast engine against the reference where KV moves: ``PYTHONPATH=tests python -m reference.kv_fuzz 200``.

Each seed is a run of prefill and decode apart, one with a CPU tier, and one with both, compared in every field of the
recordings.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from typing import Any

from penstock.validate import disaggregated, offloading
from penstock.validate.disaggregated_setup import DisaggregatedSetup
from penstock.validate.engines import penstock_disaggregated, penstock_offloading
from penstock.validate.offloading import OffloadingSetup
from penstock.validate.recordings import Recording
from penstock.workload.request import Request

from .disaggregated import replay_disaggregated
from .kv_cases import random_disaggregation, random_offloading, random_stack
from .offloading import replay_offloading


def _named(requests: tuple[Request, ...]) -> Recording:
    entries: list[dict[str, Any]] = [{"req_id": f"r{request.index:03}"} for request in requests]
    return Recording("random", {"case": "random", "requests": entries})


def disaggregation_difference(setup: DisaggregatedSetup, *, exact_only: bool = False) -> str | None:
    """The first difference of the engine ("ours") from the reference ("recorded"), or None."""
    recording = _named(setup.requests)
    expected = disaggregated.as_recording(recording, setup, replay_disaggregated(setup))
    ours = disaggregated.as_recording(recording, setup, penstock_disaggregated(setup, exact_only=exact_only))
    return disaggregated.first_difference(expected, ours)


def stack_difference(setup: DisaggregatedSetup, *, exact_only: bool = False) -> str | None:
    """As :func:`disaggregation_difference`, and the copies and stalls of the instances' tiers."""
    difference = disaggregation_difference(setup, exact_only=exact_only)
    if difference is not None:
        return difference
    expected, ours = replay_disaggregated(setup), penstock_disaggregated(setup, exact_only=exact_only)
    for name, trace in expected.instances.items():
        jobs = [{key: value for key, value in job.items() if key != "iter"} for job in trace.jobs]
        if jobs != ours.instances[name].jobs:
            return f"{name}: copies {jobs} recorded, {ours.instances[name].jobs} ours"
        stalls = [row.get("stall_ns") for row in trace.iterations]
        if stalls != [row.get("stall_ns") for row in ours.instances[name].iterations]:
            return f"{name}: steps are held back otherwise"
    return None


def offloading_difference(setup: OffloadingSetup, *, exact_only: bool = False) -> str | None:
    """The first difference of the engine ("ours") from the reference ("recorded"), or None."""
    recording = _named(setup.requests)
    expected = offloading.as_recording(recording, replay_offloading(setup))
    ours = offloading.as_recording(recording, penstock_offloading(setup, exact_only=exact_only))
    return offloading.first_difference(expected, ours)


def seed_differences(seed: int) -> list[str]:
    """What differs in the runs of a seed."""
    checks = {
        "apart": partial(disaggregation_difference, random_disaggregation(random.Random(seed))),
        "tier": partial(offloading_difference, random_offloading(random.Random(seed))),
        "both": partial(stack_difference, random_stack(random.Random(seed))),
    }
    found = {kind: check(exact_only=seed % 2 == 1) for kind, check in checks.items()}
    return [f"{kind}, seed {seed}: {difference}" for kind, difference in found.items() if difference]


def main() -> None:
    """Run seeds 0, 1, ... and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    found = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        for line in seed_differences(seed):
            found += 1
            print(line, flush=True)
    print(f"{arguments.seeds} seeds, {found} differences")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
