"""Random engine options and workloads, small enough to read and mean enough to hurt: tight pools, budgets that
cut into the decodes, shared prefixes, bursts."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from penstock.cost.linear import LinearStage, linear_pipeline
from penstock.cost.step_cost import HopCost, PipelineCost, StepShape
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.workload.request import Request
from penstock.workload.workload import Call, Columns, Workload

from .cluster import InstanceCase
from .combinations import features, is_refused

CaseT = TypeVar("CaseT", "Case", "ClusterCase")
MAX_BATCHED_TOKENS, MAX_SEQS = 1024, 128
NO_OVERHEAD = EngineOverhead()
Lengths = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Case:
    """Everything one instance needs for a replay."""

    options: SchedulerOptions
    num_gpu_blocks: int
    cost: PipelineCost
    requests: tuple[Request, ...]

    @property
    def combines(self) -> tuple[frozenset[str], ...]:
        """The features of the instance."""
        instance = InstanceCase(self.options, self.num_gpu_blocks, self.cost, NO_OVERHEAD, False)
        has_ids = any(request.input_ids for request in self.requests)
        return (features(instance, has_ids=has_ids, has_sessions=False),)


@dataclass(frozen=True, slots=True)
class ClusterCase:
    """Everything a run on several instances needs. ``sessions`` are (arrival, calls); one call is a plain request."""

    instances: tuple[InstanceCase, ...]
    sessions: tuple[tuple[int, tuple[Call, ...]], ...]

    @property
    def workload(self) -> Workload:
        """The sessions in file order."""
        columns = Columns()
        for arrival_ns, calls in self.sessions:
            if len(calls) == 1:
                columns.add(arrival_ns, calls[0])
            else:
                columns.add_session(arrival_ns, calls)
        return Workload(columns, "random")

    @property
    def combines(self) -> tuple[frozenset[str], ...]:
        """The features of each instance."""
        has_ids = any(call.input_ids for _, calls in self.sessions for call in calls)
        has_sessions = any(len(calls) > 1 for _, calls in self.sessions)
        return tuple(features(each, has_ids=has_ids, has_sessions=has_sessions) for each in self.instances)


def seeded_case(seed: int) -> Case:
    """The replay of a seed."""
    return supported(random.Random(seed), random_case)


def seeded_cluster(seed: int) -> ClusterCase:
    """The cluster of a seed."""
    return supported(random.Random(seed), random_cluster)


def supported(rng: random.Random, draw: Callable[[random.Random], CaseT]) -> CaseT:
    """Draw until the simulator takes the combination."""
    while True:
        case = draw(rng)
        if not is_refused(case.combines):
            return case


def random_case(rng: random.Random) -> Case:
    """A case from any source of randomness. Every request can be served, alone if need be."""
    lengths = _lengths(rng)
    instance = _instance(rng, lengths, shared=(None,))
    calls = _calls(rng, lengths, ids=instance.options.enable_prefix_caching and rng.random() < 0.7)
    arrivals = _arrivals(rng, len(calls), _gap(rng, instance))
    requests = [
        Request(
            index,
            arrival_ns,
            call.input_tokens,
            call.output_tokens,
            call.input_ids,
            call.output_ids,
            priority=call.priority,
        )
        for index, (arrival_ns, call) in enumerate(zip(arrivals, calls, strict=True))
    ]
    return Case(instance.options, instance.num_gpu_blocks, instance.cost, tuple(requests))


def random_cluster(rng: random.Random) -> ClusterCase:
    """Up to three instances, links that some of their hops share, sessions, overheads, blocking sends."""
    lengths = _lengths(rng)
    shared = rng.choice([(None,), (None,), (None, "a"), ("a",), ("a", "b")])
    instances = tuple(_instance(rng, lengths, shared=shared) for _ in range(rng.choice([1, 1, 2, 2, 3])))
    if len(shared) == 1 or rng.random() < 0.5:
        # Alike but for their options, as replicas are.
        instances = tuple(
            replace(each, cost=instances[0].cost)
            for each in instances
            if each.pp_size == instances[0].pp_size
        )
    instances = tuple(
        replace(each, overhead=_overhead(rng), blocking_sends=rng.random() < 0.3) for each in instances
    )
    caching = any(each.options.enable_prefix_caching for each in instances)
    calls = _calls(rng, lengths, ids=caching and rng.random() < 0.7)
    longest = rng.choice([1, 1, 2, 4])
    sessions: list[tuple[Call, ...]] = []
    while calls:
        size = rng.randint(1, longest)
        sessions.append(tuple(calls[:size]))
        del calls[:size]
    arrivals = _arrivals(rng, len(sessions), _gap(rng, instances[0]))
    return ClusterCase(instances, tuple(zip(arrivals, sessions, strict=True)))


def _instance(rng: random.Random, lengths: Lengths, *, shared: tuple[str | None, ...]) -> InstanceCase:
    pp_size = rng.choice([1, 1, 2, 2, 3, 4, 4, 8])
    options = _options(rng, pp_size, max(prompt for prompt, _ in lengths), max(map(sum, lengths)))
    cost = _cost(rng, pp_size)
    hops = tuple(replace(hop, shared_link=rng.choice(shared)) for hop in cost.hops)
    blocks = _num_gpu_blocks(rng, options, lengths)
    return InstanceCase(options, blocks, replace(cost, hops=hops), NO_OVERHEAD, blocking_sends=False)


def _lengths(rng: random.Random) -> Lengths:
    longest_prompt = rng.choice([20, 60, 200, 700])
    longest_output = rng.choice([1, 4, 25, 60, 120])
    count = rng.randint(1, rng.choice([4, 12, 30]))
    return [
        (rng.randint(1, longest_prompt), 1 if rng.random() < 0.1 else rng.randint(1, longest_output))
        for _ in range(count)
    ]


def random_policy(rng: random.Random) -> str:
    if rng.random() < 0.6:
        return "vllm"
    return rng.choice(
        [
            "decode-cap",
            f"decode-cap(cap={rng.randint(1, 4)})",
            "all-cap",
            f"all-cap(cap={rng.randint(1, 4)})",
            "gllm",
            f"gllm(iterations={rng.randint(1, 4)}, min_prefill={rng.choice([1, 8])})",
            "sglang",
            f"sglang(micro_batch={rng.randint(1, 4)}, async_depth={rng.randint(0, 2)})",
            "sglang-dynamic",
            f"sglang-dynamic(first_chunk={rng.choice([4, 16, 64])}, smoothing=0.5)",
        ]
    )


def _options(rng: random.Random, pp_size: int, longest_prompt: int, longest: int) -> SchedulerOptions:
    asynchronous = rng.random() < 0.3
    policy = random_policy(rng)
    # With its prompts whole, a request longer than such a policy's chunk could never run.
    chunked = rng.random() < 0.85 or policy.startswith(("gllm", "sglang-dynamic"))
    budget = rng.choice([4, 16, 24, 64, 256, MAX_BATCHED_TOKENS])
    max_model_len = rng.choice([131_072, 131_072, max(longest_prompt + 1, longest - rng.randint(0, 8))])
    if not chunked:
        budget = max(budget, min(longest, max_model_len))
    depth = pp_size + 1 if asynchronous else pp_size
    return SchedulerOptions(
        max_num_seqs=rng.choice([1, 2, 4, 8, 16, MAX_SEQS]),
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
        scheduling_policy="priority" if rng.random() < 0.3 else "fcfs",
        policy=policy,
    )


def _overhead(rng: random.Random) -> EngineOverhead:
    if rng.random() < 0.6:
        return NO_OVERHEAD
    return EngineOverhead(
        schedule_ns=rng.choice([0, 130_000, 900_000]),
        update_ns=rng.choice([0, 70_000]),
        ipc_to_first_stage_ns=rng.choice([0, 50_000]),
        ipc_from_last_stage_ns=rng.choice([0, 60_000, 700_000]),
    )


def _cost(rng: random.Random, pp_size: int) -> PipelineCost:
    scale = rng.choice([100_000, 1_000_000, 5_000_000])
    stages = [
        LinearStage(rng.randint(scale // 2, scale), rng.randint(0, 20_000), rng.choice([0, 7, 31, 211]))
        for _ in range(pp_size)
    ]
    latency, per_token = rng.choice([0, 20_000, 2_000_000]), rng.choice([0, 211, 4_000])
    tokens = range(MAX_BATCHED_TOKENS + 1)
    occupied = rng.random() < 0.3
    hop = HopCost(
        [latency + per_token * count for count in tokens],
        [per_token * count if occupied else 0 for count in tokens],
    )
    back = rng.choice([0, 0, 0, 90_000])
    return linear_pipeline(stages, hop, MAX_SEQS, "random", back)


def _num_gpu_blocks(rng: random.Random, options: SchedulerOptions, lengths: Lengths) -> int:
    """A pool between "hardly one" and "plenty", where no request blocks the others for ever."""
    size = options.block_size
    needs = [-(-min(sum(pair), options.max_model_len) // size) for pair in lengths]
    usable = round(max(needs) * rng.choice([1.0, 1.1, 1.5, 2.5]))
    if rng.random() < 0.3:
        usable = sum(needs) + 10
    return usable + 1


def _gap(rng: random.Random, instance: InstanceCase) -> float:
    """Mean time between arrivals."""
    alone = sum(instance.cost.stage.stage_ns(StepShape(8, 0, 8, 800, 100, 100, 8)))
    return rng.choice([0, 0, 0.1, 0.5, 1, 3]) * alone


def _arrivals(rng: random.Random, count: int, gap: float) -> list[int]:
    """Times in file order, which need not be theirs."""
    now = 0.0
    arrivals: list[int] = []
    for _ in range(count):
        now += 2 * rng.random() * gap if rng.random() < 0.8 else 0
        arrivals.append(int(now))
    if rng.random() < 0.15:
        rng.shuffle(arrivals)
    return arrivals


def _calls(rng: random.Random, lengths: Lengths, *, ids: bool) -> list[Call]:
    prefixes = [list(range(1000 * n, 1000 * n + rng.randint(1, 200))) for n in range(rng.randint(1, 3))]
    served: list[list[int]] = []
    calls: list[Call] = []
    priorities = rng.choice([[0], [0, 1], [0, 1, 2], list(range(-5, 6))])
    for index, (prompt, output) in enumerate(lengths):
        input_ids = output_ids = None
        if ids:
            earlier = rng.choice(served) if served and rng.random() < 0.3 else rng.choice(prefixes)
            own = 10_000 * (1 + index)
            input_ids = (earlier[: rng.randint(0, len(earlier))] + list(range(own, own + prompt)))[:prompt]
            output_ids = list(range(own + 5000, own + 5000 + output))
            served.append(input_ids + output_ids)
        calls.append(
            Call(
                prompt,
                output,
                rng.choice([0, 0, 1_000_000, 30_000_000]),
                array("i", input_ids) if input_ids else None,
                array("i", output_ids) if output_ids else None,
                priority=rng.choice(priorities),
            )
        )
    return calls
