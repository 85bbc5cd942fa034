from __future__ import annotations

import pytest

from penstock.cost.step_cost import HopCost, PipelineCost, StepLoad
from penstock.engine.replay import ReplayTrace, replay
from penstock.errors import UserError
from penstock.scheduler.policies import SchedulerView, StepLimits, make_policy
from penstock.scheduler.policies.sglang import DynamicChunks
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request


class PerToken:
    def __init__(self, stages: int) -> None:
        self.stages = stages

    def stage_ns(self, load: StepLoad) -> list[int]:
        return [1000 + 10 * (load.prefill_tokens + load.decodes)] * self.stages

    def notes(self) -> tuple[str, ...]:
        return ()


def run(policy: str, requests: list[Request], *, stages: int = 4, **options: int) -> ReplayTrace:
    hop = HopCost([5] * 3000, [0] * 3000)
    cost = PipelineCost(PerToken(stages), (hop,) * (stages - 1), [0] * 3000)
    settings = SchedulerOptions(
        max_in_flight=stages,
        policy=policy,
        engine_idle_sleep_ns=0,
        **options,  # pyright: ignore
    )
    return replay(settings, 5000, cost, requests)


def decodes_per_step(trace: ReplayTrace) -> list[int]:
    return [sum(new == 1 for _, new, _ in row["scheduled"]) for row in trace.iterations]


BURST = [Request(index, 0, 64, 100) for index in range(16)]


def test_a_burst_ends_up_in_one_micro_batch_without_a_policy() -> None:
    steps = decodes_per_step(run("vllm", BURST, max_num_seqs=16))
    assert max(steps) == 16


def test_the_decode_cap_spreads_the_burst_and_leaves_prefills_alone() -> None:
    trace = run("decode-cap", BURST, max_num_seqs=16)
    assert max(decodes_per_step(trace)) == 4
    assert len(trace.iterations[0]["scheduled"]) == 16
    assert run("decode-cap(cap=7)", BURST, max_num_seqs=16).iterations != trace.iterations


def test_the_request_cap_holds_prefills_back_too() -> None:
    trace = run("all-cap", BURST, max_num_seqs=16)
    assert max(len(row["scheduled"]) for row in trace.iterations) == 4


def test_even_micro_batches_finish_a_burst_of_decodes_sooner() -> None:
    natural = run("vllm", BURST, max_num_seqs=16).end_ns
    assert run("decode-cap", BURST, max_num_seqs=16).end_ns < natural


def test_a_request_stays_in_its_slot_and_a_slot_has_its_own_limit() -> None:
    trace = run("sglang", BURST, max_num_seqs=16)
    partners: dict[int, set[int]] = {}
    for row in trace.iterations:
        group = {index for index, _, _ in row["scheduled"]}
        assert len(group) <= 4
        for index in group:
            partners.setdefault(index, set()).update(group)
    assert all(len(group) == 4 for group in partners.values())


def test_chunks_of_one_prompt_follow_each_other_whatever_the_slot() -> None:
    trace = run("sglang", [Request(0, 0, 1000, 4)], max_num_seqs=16, max_num_batched_tokens=256)
    chunks = trace.iterations[:4]
    assert [row["scheduled"][0][1] for row in chunks] == [256, 256, 256, 232]
    assert chunks[-1]["t_schedule_ns"] < chunks[0]["t_done_ns"]


def test_throttling_spreads_prompt_tokens_over_the_iterations() -> None:
    trace = run("gllm(iterations=4)", BURST, max_num_seqs=16)
    prompt = [sum(new for _, new, _ in row["scheduled"] if new > 1) for row in trace.iterations]
    assert prompt[0] == 16 * 64 // 4
    assert max(prompt) < 16 * 64


def test_dynamic_chunks_take_equal_times() -> None:
    def prefill_ns(tokens: int, context: int) -> int:
        return 50 * tokens + tokens * (2 * context + tokens) // 100

    policy = DynamicChunks(1, prefill_ns=prefill_ns, first_chunk=4096, smoothing=1.0)

    class View:
        options = SchedulerOptions()

        def num_running_in(self, slot: int) -> int:
            return 0

    chunk_tokens = policy.limits(View()).chunk_tokens  # type: ignore[arg-type]
    assert chunk_tokens is not None
    first = prefill_ns(4096, 0)
    context = 0
    for _ in range(3):
        chunk = chunk_tokens(context)
        assert prefill_ns(chunk, context) == pytest.approx(first, rel=0.01)
        context += chunk
    assert chunk_tokens(10**6) == 1024


class OneDecode:
    """A policy of a user's own."""

    def __init__(self, pp_size: int, *, most: int = 1) -> None:
        self.most = most

    def limits(self, view: SchedulerView) -> StepLimits:
        return StepLimits(decodes=self.most)


def test_a_policy_of_the_users_own() -> None:
    trace = run(f"{__name__}:OneDecode(most=2)", BURST[:4], stages=2)
    assert max(decodes_per_step(trace)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decode-cup", "did you mean 'decode-cap'"),
        ("decode-cap(cap=x)", "write name=number"),
        ("decode-cap(cup=3)", "has no argument 'cup'; did you mean 'cap'"),
        ("decode-cap(cap=3,cap=4)", "'cap' is given twice"),
        ("sglang-dynamic(prefill_ns=3)", "has no argument 'prefill_ns'"),
        ("gllm(iterations=inf)", "write name=number"),
        ("vllm(1)", "'1' is not an argument"),
        ("vllm(cap=1)", "vllm takes no arguments, but 'cap' is given"),
        ("builtins:int", "has no method limits"),
        ("builtins:exit", "cannot make builtins:exit"),
        ("json:JSONDecoder", "cannot make json:JSONDecoder"),
        ("no_such_module:Class", "cannot import it"),
    ],
)
def test_what_cannot_be_made_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_policy(text, 2, lambda tokens, context: tokens)


@pytest.mark.parametrize(
    "policy", ["decode-cap(cap=3)", "all-cap(cap=3)", "gllm", "sglang", "sglang-dynamic"]
)
def test_a_policy_holds_under_async_scheduling_too(policy: str) -> None:
    trace = run(policy, BURST, async_scheduling=True)
    assert all(request["finish_ns"] is not None for request in trace.requests.values())
    if "cap" in policy:
        decodes = [sum(new == 1 for _, new, _ in row["scheduled"]) for row in trace.iterations]
        assert max(decodes) <= 3
