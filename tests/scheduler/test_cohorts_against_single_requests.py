"""Cohorts beside the same decisions request by request: the same steps, the same ends, clients that leave included."""

from __future__ import annotations

import random
from array import array
from collections import deque
from typing import Any

import pytest

from penstock.scheduler.make import make_scheduler
from penstock.scheduler.policies.limits import SchedulerView, StepLimits
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.vllm import VllmScheduler
from penstock.scheduler.vllm_async import VllmAsyncScheduler
from penstock.scheduler.vllm_async_each import VllmAsyncEachScheduler
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request


class SlotsNowAndThen:
    """A policy that bounds its steps to a slot at times, and to nothing at others."""

    def __init__(self, pp_size: int) -> None:
        self._calls = 0

    def limits(self, view: SchedulerView) -> StepLimits:
        self._calls += 1
        if self._calls % 5 == 0:
            return StepLimits(decodes=3)
        slot = self._calls % 2
        return StepLimits(slot=slot, admissions=max(4 - view.num_running_in(slot), 0))


POLICIES = ["decode-cap(cap=2)", "all-cap(cap=3)", "gllm", "sglang", "sglang-dynamic(first_chunk=8)"]


def options_of(rng: random.Random, pp_size: int) -> SchedulerOptions:
    asynchronous = rng.random() < 0.6
    return SchedulerOptions(
        max_num_seqs=rng.choice([2, 6, 64]),
        max_num_batched_tokens=rng.choice([4, 16, 64, 512]),
        max_model_len=rng.choice([60, 131_072]),
        block_size=rng.choice([1, 4, 16]),
        enable_prefix_caching=rng.random() < 0.6,
        max_in_flight=pp_size + asynchronous,
        async_scheduling=asynchronous,
        v2_model_runner=asynchronous and pp_size > 1,
        scheduling_policy=rng.choice(["fcfs", "priority"]),
        policy=rng.choice(["vllm", "vllm", *POLICIES, f"{__name__}:SlotsNowAndThen"]),
    )


def requests_of(rng: random.Random) -> list[Request]:
    shared = array("i", range(40))
    with_ids = rng.random() < 0.7
    requests: list[Request] = []
    for index in range(rng.randint(1, 16)):
        prompt, output = rng.randint(1, 40), rng.randint(1, 15)
        inputs = shared[: rng.randint(0, prompt)] + array("i", range(1000 * index, 1000 * index + 40))
        outputs = array("i", range(1000 * index + 500, 1000 * index + 500 + output))
        ids = (inputs[:prompt], outputs) if with_ids else (None, None)
        requests.append(Request(index, 0, prompt, output, *ids, priority=rng.randint(0, 2)))
    return requests


def serve(scheduler: VllmScheduler, seed: int, depth: int, requests: list[Request]) -> dict[str, Any]:
    """Everything that can be told apart, clients that leave included."""
    rng = random.Random(seed)
    arriving = deque(RequestState(each, scheduler.options.max_model_len) for each in requests)
    states = list(arriving)
    queue: deque[Any] = deque()
    seen: list[Any] = []
    now = 0
    while arriving or scheduler.has_work() or queue:
        now += 10
        while arriving and rng.random() < 0.5:
            scheduler.add(arriving.popleft(), now)
        if rng.random() < 0.05:
            leaving = rng.choice(states)
            seen.append((leaving.request.index, scheduler.abort(leaving, now)))
        step = scheduler.schedule(now)
        contents = [(state.request.index, new, computed) for state, new, computed in step.contents()]
        load = (step.decodes, step.decode_context, step.min_context, step.max_context, step.sampled)
        after = None if step.after is None else step.after.number
        seen.append((contents, load, after, [state.request.index for state in step.preempted]))
        seen.append((scheduler.kv.free, len(scheduler.running), len(scheduler.waiting)))
        queue.append(step)
        while len(queue) >= depth or (queue and rng.random() < 0.4):
            now += rng.randint(1, 50)
            ended = scheduler.update(queue.popleft(), now)
            seen.append(([state.request.index for state in ended], scheduler.kv.free))
        assert now < 1_000_000, "no progress"
    gaps: dict[int, int] = {}
    for gap, weight in zip(scheduler.token_gaps[::2], scheduler.token_gaps[1::2], strict=True):
        if weight:
            gaps[gap] = gaps.get(gap, 0) + weight
    ends = [
        (
            state.outcome,
            state.num_tokens,
            state.first_token_ns,
            state.cached_tokens,
            [time for times, start, stop in state.segments for time in times[start:stop]],
        )
        for state in states
        if state.outcome is not Outcome.ABORTED or state.first_token_ns is not None
    ]
    return {"seen": seen, "gaps": gaps, "ends": ends, "free": scheduler.kv.free == scheduler.kv.usable}


@pytest.mark.parametrize("seed", range(300))
def test_cohorts_take_the_same_steps_as_single_requests(seed: int) -> None:
    rng = random.Random(seed)
    pp_size = rng.choice([1, 2, 3, 4])
    options = options_of(rng, pp_size)
    requests = requests_of(rng)
    size = options.block_size
    needed = max(-(-min(r.input_tokens + r.output_tokens, options.max_model_len) // size) for r in requests)
    blocks = 1 + round(needed * rng.choice([1.0, 1.5, 3.0, 20.0]))
    cohorts = make_scheduler(options, pp_size, blocks)
    single = make_scheduler(options, pp_size, blocks, exact_only=True)
    if options.async_scheduling:
        assert isinstance(cohorts, VllmAsyncScheduler)
        assert isinstance(single, VllmAsyncEachScheduler)
    ours = serve(cohorts, seed, options.max_in_flight, requests)
    theirs = serve(single, seed, options.max_in_flight, requests)
    assert ours == theirs
    assert ours["free"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("policy", ["vllm", "decode-cap", "all-cap", "gllm", "sglang", "sglang-dynamic"])
def test_no_turn_is_decided_request_by_request(policy: str, asynchronous: bool) -> None:
    options = SchedulerOptions(
        max_in_flight=4 + asynchronous,
        async_scheduling=asynchronous,
        v2_model_runner=asynchronous,
        max_num_seqs=16,
        policy=policy,
    )
    scheduler = make_scheduler(options, 4, 10_000)
    serve(scheduler, 1, options.max_in_flight, [Request(index, 0, 30, 40) for index in range(30)])
    assert scheduler.exact_turns == 0
    assert scheduler.cohort_turns > 80


def test_where_a_request_may_be_scheduled_past_its_end_every_turn_is_decided_request_by_request() -> None:
    options = SchedulerOptions(max_in_flight=3, async_scheduling=True)
    assert isinstance(make_scheduler(options, 1, 100), VllmAsyncEachScheduler)
