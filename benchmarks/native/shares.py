"""How much of a run is inside runs of decode turns: ``python -m benchmarks.native.shares``.

What stands outside bounds the gain of a native loop that takes those runs alone, with the state left in Python.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from benchmarks.inputs import SHAPES, cluster_config, profile_root, sharegpt_like

from penstock.api import load_scenario
from penstock.engine.simulation import Simulation

if TYPE_CHECKING:
    from penstock.engine.replica import Accelerator, Replica

REQUESTS = 3_000
RUNNING = 128
REPEATS = 3


class TimedAccelerator:
    """The replica's own accelerator, with the CPU time and the turns in its calls."""

    def __init__(self, inner: Accelerator) -> None:
        self._inner = inner
        self.spent_s = 0.0
        self.runs = 0
        self.turns = 0
        self.turns_of_all = 0

    def take_turns(self, replica: Replica, limit_ns: int) -> bool:
        """See :class:`~penstock.engine.replica.Accelerator`."""
        turns = replica.turns
        before = time.process_time()
        blocks = self._inner.take_turns(replica, limit_ns)
        self.spent_s += time.process_time() - before
        self.turns += replica.turns - turns
        self.runs += replica.turns > turns
        return blocks


def measure(mode: str) -> tuple[float, TimedAccelerator]:
    """CPU seconds of the engine alone at pp 4, all requests at once, and what was inside runs; the best repeat."""
    root = profile_root()
    workload = sharegpt_like(REQUESTS, None, prefixes=False)
    found: list[tuple[float, TimedAccelerator]] = []
    for _ in range(REPEATS):
        options = {
            "record": "requests",
            "keep_token_times": False,
            "max_num_seqs": RUNNING,
            "profile_root": None if root is None else str(root),
        }
        scenario = load_scenario(cluster_config(SHAPES["pp4"], mode), workload, options)
        simulation = Simulation(scenario.cluster, scenario.workload, scenario.options)
        replica = simulation.instances[0]
        assert replica._accelerator is not None  # noqa: SLF001
        timed = replica._accelerator = TimedAccelerator(replica._accelerator)  # noqa: SLF001
        before = time.process_time()
        simulation.run()
        found.append((time.process_time() - before, timed))
        timed.turns_of_all = replica.turns
    return min(found, key=lambda one: one[0])


def main() -> None:
    """Print the table of the documentation."""
    print("| mode | CPU s | of these in runs | turns in runs | runs | at most, times as fast |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for mode in ("synchronous", "async scheduling"):
        total, timed = measure(mode)
        share = timed.spent_s / total
        print(
            f"| {mode} | {total:.3f} | {share:.0%} | {timed.turns / timed.turns_of_all:.0%} | {timed.runs:,} "
            f"| {1 / (1 - share):.1f} |"
        )


if __name__ == "__main__":
    main()
