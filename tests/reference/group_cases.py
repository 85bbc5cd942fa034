"""Random groups of data-parallel ranks: waves that end at once or late, slow and instant messages, every balancing."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from penstock.engine.replay_group import ArrivingRequest
from penstock.spec.data_parallel import DataParallelOptions, MessageLatencies
from penstock.spec.options import SchedulerOptions
from penstock.validate.data_parallel import (
    Group,
    GroupStage,
    RecordedGroupCost,
    as_recording,
    first_group_difference,
    penstock_group,
)
from penstock.workload.request import Request

from .cases import seeded_case
from .data_parallel import serve


@dataclass(frozen=True, slots=True)
class GroupCase:
    """Everything one run of a group needs."""

    parallel: DataParallelOptions
    options: SchedulerOptions
    num_gpu_blocks: int
    cost: RecordedGroupCost
    arriving: tuple[ArrivingRequest, ...]


def seeded_group(seed: int) -> GroupCase:
    """The case of a seed: the scheduler options and requests of that seed's single engine, on several ranks."""
    rng = random.Random(seed)
    single = seeded_case(seed)
    options = replace(single.options, policy="vllm", scheduling_policy="fcfs")
    parallel = _parallel(rng)
    front_ends = (
        parallel.size if parallel.load_balancing == "external" else parallel.front_ends * parallel.nodes
    )
    return GroupCase(
        parallel,
        options,
        single.num_gpu_blocks,
        _cost(rng, len(single.cost.hops) + 1),
        tuple(_arriving(rng, request, parallel, front_ends) for request in single.requests),
    )


def _parallel(rng: random.Random) -> DataParallelOptions:
    size = rng.choice([2, 2, 3, 4])
    balancing = rng.choice(["internal", "internal", "hybrid", "external"])
    slowest = rng.choice([0, 0, 200_000, 20_000_000])
    latencies = [rng.randint(0, slowest) for _ in range(6)]
    return DataParallelOptions(
        size=size,
        sync_interval=rng.choice([1, 2, 4, 16, 32]),
        sync_ns=rng.choice([0, 50_021]),
        prefill_schedule_interval=rng.choice([1, 1, 2, 8]),
        load_balancing=balancing,
        front_ends=1 if balancing == "external" else rng.choice([1, 1, 2, 3]),
        nodes=rng.choice([n for n in (1, 2, size) if size % n == 0]) if balancing == "hybrid" else 1,
        stats_interval_ms=rng.choice([20, 100]),
        generation=rng.choice(["0.32", "0.32", "0.32", "0.19"]),
        latencies=MessageLatencies(
            front_end_to_engine_ns=latencies[0],
            engine_to_front_end_ns=latencies[1],
            front_end_to_coordinator_ns=latencies[2],
            coordinator_to_front_end_ns=latencies[3],
            engine_to_coordinator_ns=latencies[4],
            coordinator_to_engine_ns=latencies[5],
        ),
    )


def _cost(rng: random.Random, stages: int) -> RecordedGroupCost:
    base = rng.choice([300_000, 2_000_000])
    lines = tuple(
        GroupStage(
            base_ns=rng.randint(base // 2, base),
            per_token_ns=rng.randint(0, 9_000),
            per_sum_ns=rng.choice([0, rng.randint(0, 2_000)]),
            per_context_ns=rng.choice([0, 7, 31]),
        )
        for _ in range(stages)
    )
    hop, tail = (
        rng.choice([(0, 0), (100_003, 101), (2_000_011, 5_003)]),
        rng.choice([(0, 0), (100_003, 9_001)]),
    )
    return RecordedGroupCost(lines, *hop, *tail)


def _arriving(
    rng: random.Random, request: Request, parallel: DataParallelOptions, front_ends: int
) -> ArrivingRequest:
    names_rank = parallel.load_balancing == "external" or rng.random() < 0.1
    rank = rng.randrange(parallel.size) if names_rank else None
    if parallel.load_balancing == "external":
        assert rank is not None
        return ArrivingRequest(request, rank, rank)
    front_end = rng.randrange(front_ends)
    if rank is not None and parallel.load_balancing == "hybrid":
        per_node = parallel.size // parallel.nodes
        rank = front_end // parallel.front_ends * per_node + rank % per_node
    return ArrivingRequest(request, front_end, rank)


def failure_of_group(seed: int) -> str | None:
    """The first difference of the engine, on either path, from the reference; None if there is none."""
    case = seeded_group(seed)
    expected = _run(case, serve)
    for path, engine in {"cohorts": penstock_group(), "exact only": penstock_group(exact_only=True)}.items():
        found = first_group_difference(expected, _run(case, engine))
        if found is not None:
            return f"seed {seed}, {path}: {found}"
    return None


def _run(case: GroupCase, group: Group) -> dict[str, object]:
    trace = group(case.parallel, case.options, case.num_gpu_blocks, case.cost, case.arriving)
    requests = [each.request for each in case.arriving]
    return as_recording(trace, "random", [f"r{request.index:03}" for request in requests], requests)
