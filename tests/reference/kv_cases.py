"""Random cases of KV on the move: prefill and decode apart, and a CPU tier. Tight pools, slow wires, shared prefixes,
clients that leave, reads that fail."""

from __future__ import annotations

import random
from array import array
from dataclasses import replace

from penstock.cost.linear import LinearStage, linear_hop, linear_pipeline
from penstock.cost.step_cost import PipelineCost
from penstock.spec.kv_tier import TierOptions
from penstock.spec.options import SchedulerOptions
from penstock.validate.disaggregated_setup import DisaggregatedSetup, InstanceSetup, TransferOptions
from penstock.validate.offloading import OffloadingSetup
from penstock.workload.request import Request

from .cases import random_policy

KV_BYTES = 131_072


def random_disaggregation(rng: random.Random) -> DisaggregatedSetup:
    """One to three instances on either side, each with options of its own."""
    block_size = rng.choice([4, 16, 32])
    requests = _requests(rng, ids=rng.random() < 0.7)
    sides = [(True, rng.randint(1, 2)), (False, rng.randint(1, 3))]
    instances = tuple(
        _instance(rng, f"{'P' if prefills else 'D'}{number}", block_size, requests, prefills=prefills)
        for prefills, count in sides
        for number in range(count)
    )
    return DisaggregatedSetup(
        instances=instances,
        transfer=TransferOptions(
            latency_ns=rng.choice([0, 50_021, 2_000_003]),
            bandwidth_bytes_per_s=rng.choice([300_000_000, 3_000_000_000, 100_000_000_000]),
            kv_bytes_per_token=KV_BYTES,
            serialise=rng.choice(["none", "pair", "d_stage", "both"]),
            notify_ns=rng.choice([0, 0, 10_007]),
            handshake_ns=rng.choice([0, 0, 3_000_017]),
            failing=frozenset(
                (request.index, rng.choice([None, 0]))
                for request in requests
                if rng.random() < rng.choice([0, 0, 0.15])
            ),
        ),
        proxy_ns=rng.choice([0, 200_000, 5_000_011]),
        requests=requests,
        direct=frozenset(request.index for request in requests if rng.random() < rng.choice([0, 0, 0.4])),
        aborts=tuple(
            (
                request.index,
                request.arrival_ns + rng.randint(1, 60_000_000),
                rng.choice(["prefill", "decode"]),
            )
            for request in requests
            if rng.random() < rng.choice([0, 0, 0.2])
        ),
    )


def random_stack(rng: random.Random) -> DisaggregatedSetup:
    """As :func:`random_disaggregation`, with a tier below some of the instances."""
    setup = random_disaggregation(rng)
    return replace(
        setup,
        instances=tuple(
            replace(each, tier=_tier(rng)) if rng.random() < 0.8 else each for each in setup.instances
        ),
    )


def random_offloading(rng: random.Random) -> OffloadingSetup:
    """An instance whose GPU pool is small, and a tier that may be smaller."""
    block_size = rng.choice([4, 16, 32])
    requests = _requests(rng, ids=rng.random() < 0.85)
    options, num_gpu_blocks, cost = _engine(rng, block_size, requests)
    tier = _tier(rng)
    return OffloadingSetup(options, num_gpu_blocks, cost, tier, requests, looks_at_end=rng.random() < 0.3)


def _tier(rng: random.Random) -> TierOptions:
    return TierOptions(
        cpu_chunks=rng.choice([6, 20, 60, 500]),
        blocks_per_chunk=rng.choice([1, 1, 2, 4]),
        eviction_policy=rng.choice(["lru", "arc"]),
        offload_prompt_only=rng.random() < 0.5,
        store_threshold=rng.choice([0, 0, 0, 2]),
        kv_bytes_per_token=KV_BYTES,
        d2h_latency_ns=rng.choice([5_003, 900_001]),
        d2h_bytes_per_s=rng.choice([50_000_000, 300_000_000, 20_000_000_000]),
        h2d_latency_ns=rng.choice([5_003, 900_001]),
        h2d_bytes_per_s=rng.choice([50_000_000, 300_000_000, 25_000_000_000]),
    )


def _instance(
    rng: random.Random, name: str, block_size: int, requests: tuple[Request, ...], *, prefills: bool
) -> InstanceSetup:
    options, num_gpu_blocks, cost = _engine(rng, block_size, requests)
    role = "kv_producer" if prefills else "kv_consumer"
    return InstanceSetup(
        name,
        prefills,
        rng.choice([role, role, "kv_both"]),
        options,
        num_gpu_blocks,
        cost,
        recomputes_failures=rng.random() < 0.5,
        lease_s=rng.choice([2, 30]),
        looks_at_end=rng.random() < 0.3,
    )


def _engine(
    rng: random.Random, block_size: int, requests: tuple[Request, ...]
) -> tuple[SchedulerOptions, int, PipelineCost]:
    pp_size = rng.choice([1, 1, 2, 2, 3, 4])
    asynchronous = rng.random() < 0.25
    stages = [
        LinearStage(rng.randint(300_000, 2_000_000), rng.randint(0, 20_000), rng.choice([0, 7, 31]))
        for _ in range(pp_size)
    ]
    options = SchedulerOptions(
        max_num_seqs=rng.choice([2, 4, 8, 16]),
        max_num_batched_tokens=rng.choice([64, 128, 512]),
        block_size=block_size,
        long_prefill_token_threshold=rng.choice([0, 0, 32, 100]),
        enable_prefix_caching=rng.random() < 0.5,
        reserve_full_isl=rng.random() < 0.8,
        watermark=rng.choice([0.0, 0.0, 0.1]),
        max_in_flight=pp_size + asynchronous,
        async_scheduling=asynchronous,
        v2_model_runner=asynchronous and pp_size > 1,
        engine_idle_sleep_ns=rng.choice([0, 1_000_000]),
        scheduling_policy=rng.choice(["fcfs", "fcfs", "priority"]),
        policy=random_policy(rng) if rng.random() < 0.4 else "vllm",
    )
    longest = max(-(-(each.input_tokens + each.output_tokens) // block_size) for each in requests)
    usable = max(round(longest * rng.choice([1.2, 2.0, 4.0, 12.0])), 2)
    # With a watermark a pool must hold the longest request beside it.
    usable += int(options.watermark * usable) + 2
    hop = linear_hop(rng.choice([0, 100_003]), rng.choice([0, 101]), options.max_num_batched_tokens)
    return options, usable + 1, linear_pipeline(stages, hop, options.max_num_seqs, "random")


def _requests(rng: random.Random, *, ids: bool) -> tuple[Request, ...]:
    now = 0
    gap = rng.choice([0, 1_000_000, 8_000_000])
    prefixes = [list(range(1000 * n, 1000 * n + rng.randint(1, 200))) for n in range(rng.randint(1, 3))]
    served: list[list[int]] = []
    requests: list[Request] = []
    longest = rng.choice([20, 90, 250])
    for index in range(rng.randint(2, rng.choice([5, 14]))):
        now += rng.randint(0, 2 * gap)
        prompt, output = rng.randint(1, longest), rng.randint(1, rng.choice([1, 12, 40]))
        request = Request(index, now, prompt, output, priority=rng.choice([0, 0, 1, 2]))
        if ids:
            earlier = rng.choice(served) if served and rng.random() < 0.4 else rng.choice(prefixes)
            own = 100_000 * (1 + index)
            prompt_ids = (earlier[: rng.randint(0, len(earlier))] + list(range(own, own + prompt)))[:prompt]
            output_ids = list(range(own + 50_000, own + 50_000 + output))
            served.append(prompt_ids + output_ids)
            request = replace(request, input_ids=array("i", prompt_ids), output_ids=array("i", output_ids))
        requests.append(request)
    return tuple(requests)
