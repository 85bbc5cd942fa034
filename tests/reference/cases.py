"""Random engine options and workloads, small enough to read and mean enough to hurt: tight pools, budgets that
cut into the decodes, shared prefixes, bursts."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass

from penstock.cost.linear import LinearStage, linear_pipeline
from penstock.cost.step_cost import HopCost, PipelineCost
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request


@dataclass(frozen=True, slots=True)
class Case:
    """Everything one run needs."""

    options: SchedulerOptions
    num_gpu_blocks: int
    cost: PipelineCost
    requests: tuple[Request, ...]


def seeded_case(seed: int) -> Case:
    """The case of a seed."""
    return random_case(random.Random(seed))


def random_case(rng: random.Random) -> Case:
    """A case from any source of randomness. Every request can be served, alone if need be."""
    pp_size = rng.choice([1, 1, 2, 2, 3, 4, 4, 8])
    lengths = _lengths(rng)
    options = _options(rng, pp_size, max(prompt for prompt, _ in lengths), max(map(sum, lengths)))
    cost = _cost(rng, pp_size, options)
    gap = rng.choice([0, 0, 0.1, 0.5, 1, 3]) * sum(cost.stage.stage_ns(8, 0, 8, 800, 100, 100, 8))
    caching = options.enable_prefix_caching
    return Case(
        options, _num_gpu_blocks(rng, options, lengths), cost, _requests(rng, lengths, gap, ids=caching)
    )


def _lengths(rng: random.Random) -> list[tuple[int, int]]:
    longest_prompt = rng.choice([20, 60, 200, 700])
    longest_output = rng.choice([1, 4, 25, 60, 120])
    count = rng.randint(1, rng.choice([4, 12, 30]))
    return [
        (rng.randint(1, longest_prompt), 1 if rng.random() < 0.1 else rng.randint(1, longest_output))
        for _ in range(count)
    ]


def _options(rng: random.Random, pp_size: int, longest_prompt: int, longest: int) -> SchedulerOptions:
    asynchronous = rng.random() < 0.3
    chunked = rng.random() < 0.85
    budget = rng.choice([4, 16, 24, 64, 256, 1024])
    max_model_len = rng.choice([131_072, 131_072, max(longest_prompt + 1, longest - rng.randint(0, 8))])
    if not chunked:
        budget = max(budget, min(longest, max_model_len))
    depth = pp_size + 1 if asynchronous else pp_size
    return SchedulerOptions(
        max_num_seqs=rng.choice([1, 2, 4, 8, 16, 128]),
        max_num_batched_tokens=budget,
        max_model_len=max_model_len,
        block_size=rng.choice([1, 3, 4, 16, 16, 32]),
        long_prefill_token_threshold=rng.choice([0, 0, 0, 7, 32, 100]),
        enable_chunked_prefill=chunked,
        enable_prefix_caching=rng.random() < 0.5,
        reserve_full_isl=rng.random() < 0.75,
        watermark=rng.choice([0.0, 0.0, 0.0, 0.02, 0.1]),
        max_in_flight=depth if rng.random() < 0.85 else rng.randint(1, pp_size + 2),
        async_scheduling=asynchronous,
        v2_model_runner=asynchronous and pp_size > 1,
        engine_idle_sleep_ns=rng.choice([0, 0, 1_000_000, 350_000]),
    )


def _cost(rng: random.Random, pp_size: int, options: SchedulerOptions) -> PipelineCost:
    scale = rng.choice([100_000, 1_000_000, 5_000_000])
    stages = [
        LinearStage(rng.randint(scale // 2, scale), rng.randint(0, 20_000), rng.choice([0, 7, 31, 211]))
        for _ in range(pp_size)
    ]
    latency, per_token = rng.choice([0, 20_000, 2_000_000]), rng.choice([0, 211, 4_000])
    tokens = range(options.max_num_batched_tokens + 1)
    occupied = rng.random() < 0.3
    hop = HopCost(
        [latency + per_token * count for count in tokens],
        [per_token * count if occupied else 0 for count in tokens],
    )
    back = rng.choice([0, 0, 0, 90_000])
    return linear_pipeline(stages, hop, options.max_num_seqs, "random", back)


def _num_gpu_blocks(rng: random.Random, options: SchedulerOptions, lengths: list[tuple[int, int]]) -> int:
    """A pool between "hardly one" and "plenty", where no request blocks the others for ever."""
    size = options.block_size
    needs = [-(-min(sum(pair), options.max_model_len) // size) for pair in lengths]
    usable = round(max(needs) * rng.choice([1.0, 1.1, 1.5, 2.5]))
    if rng.random() < 0.3:
        usable = sum(needs) + 10
    return usable + 1


def _requests(
    rng: random.Random, lengths: list[tuple[int, int]], gap: float, *, ids: bool
) -> tuple[Request, ...]:
    now = 0.0
    prefixes = [list(range(1000 * n, 1000 * n + rng.randint(1, 200))) for n in range(rng.randint(1, 3))]
    served: list[list[int]] = []
    requests: list[Request] = []
    for index, (prompt, output) in enumerate(lengths):
        now += 2 * rng.random() * gap if rng.random() < 0.8 else 0
        input_ids = output_ids = None
        if ids:
            earlier = rng.choice(served) if served and rng.random() < 0.3 else rng.choice(prefixes)
            own = 10_000 * (1 + index)
            input_ids = (earlier[: rng.randint(0, len(earlier))] + list(range(own, own + prompt)))[:prompt]
            output_ids = list(range(own + 5000, own + 5000 + output))
            served.append(input_ids + output_ids)
        requests.append(
            Request(
                index,
                int(now),
                prompt,
                output,
                array("i", input_ids) if input_ids else None,
                array("i", output_ids) if output_ids else None,
            )
        )
    return tuple(requests)
