"""What one request, one turn and one pair of inter-token latencies take: ``python -m benchmarks.memory``."""

from __future__ import annotations

import tracemalloc
from array import array
from collections.abc import Callable, Generator
from contextlib import contextmanager

import numpy as np

from benchmarks.inputs import RATE_PER_GPU, SHAPES, cluster_config, profile_root, sharegpt_like

COUNT = 100_000
TURNS_OF_REQUESTS = 2_000


def main() -> None:
    """Print each figure in bytes."""
    tracemalloc.start()
    print(f"request and its scheduler state: {_per_item(_states):.0f} bytes a live request")
    print(f"token times of a request that was never preempted: {_per_item(_slices):.0f} bytes and 8 a step")
    print(f"percentiles of inter-token latencies: {_summing_up():.0f} bytes a pair at the peak, 16 are held")
    tracemalloc.stop()
    print(f"turns kept for --results, --record stages, pp 4: {_kept_turn():.0f} bytes a turn")


def _per_item(make: Callable[[int], list[object]]) -> float:
    before = tracemalloc.get_traced_memory()[0]
    kept = make(COUNT)
    return (tracemalloc.get_traced_memory()[0] - before) / len(kept)


def _states(count: int) -> list[object]:
    from penstock.scheduler.request_state import RequestState
    from penstock.workload.request import Request

    return [RequestState(Request(i, 10**12 + i, 1_000 + i, 700 + i), 131_072) for i in range(1_000, count)]


def _slices(count: int) -> list[object]:
    times = array("q")
    return [((times, i, i + 650),) for i in range(1_000, count)]


@contextmanager
def _peak(result: list[int]) -> Generator[None]:
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    yield
    result.append(tracemalloc.get_traced_memory()[1] - before)


def _summing_up() -> float:
    from penstock.accounting.metrics import weighted_distribution

    count = 10 * COUNT
    generator = np.random.Generator(np.random.PCG64(1))
    gaps, weights = generator.integers(10**6, 10**8, count), generator.integers(1, 128, count)
    found: list[int] = []
    with _peak(found):
        weighted_distribution(gaps, weights)
    return found[0] / count


def _kept_turn() -> float:
    from penstock.api import Run, load_scenario
    from penstock.rendering.result import KeepTurns

    shape = SHAPES["pp4"]
    root = profile_root()
    options = {"keep_token_times": False, "profile_root": None if root is None else str(root)}
    workload = sharegpt_like(TURNS_OF_REQUESTS, RATE_PER_GPU * shape.gpus)
    run = Run(load_scenario(cluster_config(shape), workload, options), keep_turns=False)
    kept = KeepTurns()
    run.listen(kept)
    totals = run.run().record.totals
    return kept.nbytes / sum(each.iterations + each.empty_schedules for each in totals)


if __name__ == "__main__":
    main()
