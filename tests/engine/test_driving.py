"""A simulation that a program moves on by itself: submit, advance, abort, observe."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.observer import Observer, RequestView, StepView, TokensView
from penstock.engine.simulation import Simulation
from penstock.recording.records import Rejection, RunRecord
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.units import NEVER_NS, Int64Array
from penstock.workload.request import Request
from penstock.workload.workload import Workload

Lengths = Sequence[tuple[int, int, int]]


def cluster(instances: int = 1, **changes: Any) -> Any:
    instance: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "pp_size": 2,
        **changes,
    }
    node = {"num_instances": instances, "instances": [instance] * instances}
    return load_cluster({"num_nodes": 1, "link_bw": 100, "link_latency": 1000, "nodes": [node]})


def workload(lengths: Lengths) -> Workload:
    return Workload.from_columns(*zip(*lengths, strict=True), "test")


def rows(record: RunRecord) -> Int64Array:
    """What became of each request, in the order of the workload."""
    values = record.requests.values()
    return values[np.argsort(values[:, 0])]


def same(one: RunRecord, other: RunRecord) -> bool:
    return np.array_equal(rows(one), rows(other)) and one.totals == other.totals


lengths_strategy = st.lists(
    st.tuples(st.integers(0, 300_000_000), st.integers(1, 3000), st.integers(1, 40)), min_size=1, max_size=12
)
OPTIONS = RunOptions(router="RR")


@settings(max_examples=20, deadline=None)
@given(lengths_strategy, st.integers(1, 3), st.integers(1_000_000, 50_000_000))
def test_small_steps_lead_to_the_same_end(lengths: Lengths, instances: int, step_ns: int) -> None:
    whole = Simulation(cluster(instances), workload(lengths), OPTIONS).run()
    simulation = Simulation(cluster(instances), workload(lengths), OPTIONS)
    while len(simulation.record().requests) < len(lengths):
        simulation.advance(simulation.now_ns + step_ns)
    assert np.array_equal(rows(whole), rows(simulation.record()))


@settings(max_examples=20, deadline=None)
@given(lengths_strategy)
def test_submitting_is_arriving(lengths: Lengths) -> None:
    ordered = sorted(lengths)
    whole = Simulation(cluster(), workload(ordered)).run()
    simulation = Simulation(cluster())
    for arrival_ns, prompt, answer in ordered:
        simulation.advance(arrival_ns)
        simulation.submit(Request(simulation.next_index, arrival_ns, prompt, answer))
    assert same(whole, simulation.run())


def test_an_observer_sees_every_step_and_every_end() -> None:
    class Count(Observer):
        def __init__(self) -> None:
            self.tokens = 0
            self.ends: list[RequestView] = []

        def step_scheduled(self, step: StepView) -> None:
            self.tokens += sum(new for _, new, _ in step.scheduled)

        def request_ended(self, request: RequestView) -> None:
            self.ends.append(request)

    lengths = [(0, 100, 5), (2_000_000, 300, 1), (3_000_000, 50, 9)]
    count = Count()
    record = Simulation(cluster(2), workload(lengths), OPTIONS, observers=[count]).run()
    assert same(record, Simulation(cluster(2), workload(lengths), OPTIONS).run())
    assert count.tokens == sum(prompt + answer - 1 for _, prompt, answer in lengths)
    assert sorted(end.request for end in count.ends) == [0, 1, 2]
    assert {end.outcome for end in count.ends} == {"finished"}
    assert [end.end_ns for end in count.ends] == record.requests.values()[:, 7].tolist()


def test_a_closed_loop_keeps_as_many_requests_open_as_it_has_users() -> None:
    class Users(Observer):
        """Whoever has an answer asks again 10 ms later, until 20 questions have been asked."""

        def __init__(self, simulation: Simulation) -> None:
            self.simulation = simulation
            self.open = self.most_open = 0

        def ask(self, at_ns: int) -> None:
            if self.simulation.next_index < 20:
                self.open += 1
                self.most_open = max(self.most_open, self.open)
                self.simulation.submit(Request(self.simulation.next_index, at_ns, 200, 10))

        def request_ended(self, request: RequestView) -> None:
            self.open -= 1
            self.ask(request.end_ns + 10_000_000)

    simulation = Simulation(cluster(2), options=OPTIONS)
    users = Users(simulation)
    simulation.observe(users)
    for _ in range(3):
        users.ask(0)
    record = simulation.run()
    assert len(record.requests) == 20
    assert users.most_open == 3


@settings(max_examples=20, deadline=None)
@given(lengths_strategy, st.integers(1, 3), st.integers(1, 20_000_000))
def test_what_an_observer_submits_arrives_as_if_it_had_been_known(
    lengths: Lengths, instances: int, later_ns: int
) -> None:
    class Echo(Observer):
        """Each of the first steps makes somebody ask, ``later_ns`` after it was scheduled."""

        def __init__(self, simulation: Simulation) -> None:
            self.simulation = simulation
            self.asked: list[tuple[int, int, int]] = []

        def step_scheduled(self, step: StepView) -> None:
            assert self.simulation.now_ns == step.schedule_ns
            if len(self.asked) < 8:
                self.asked.append((step.schedule_ns + later_ns, 300, 7))
                self.simulation.submit(Request(self.simulation.next_index, *self.asked[-1]))

    simulation = Simulation(cluster(instances), workload(lengths), OPTIONS)
    echo = Echo(simulation)
    simulation.observe(echo)
    record = simulation.run()
    assert np.array_equal(
        rows(record), rows(Simulation(cluster(instances), workload([*lengths, *echo.asked]), OPTIONS).run())
    )


@pytest.mark.parametrize("async_scheduling", [False, True])
@pytest.mark.parametrize("at_ms", [0, 2, 30, 200])
def test_an_aborted_request_gives_everything_back(at_ms: int, *, async_scheduling: bool) -> None:
    lengths = [(0, 2000, 400), (0, 1500, 30), (1_000_000, 800, 20)]
    changes = {"async_scheduling": async_scheduling, "num_gpu_blocks": 300}
    simulation = Simulation(cluster(**changes), workload(lengths))
    simulation.advance(at_ms * 1_000_000 + 1)
    assert simulation.abort(0)
    record = simulation.run()
    assert [one.request for one in record.abortions] == [0]
    assert sorted(record.requests.values()[:, 0].tolist()) == [1, 2]
    assert simulation.instances[0].scheduler.status().free_blocks == 299
    assert simulation.instances[0].outstanding_tokens == 0
    assert not simulation.abort(0)
    gaps, weights = record.token_gaps
    generated = sum(answer for _, _, answer in lengths[1:]) + record.abortions[0].generated_tokens
    answered = 2 + bool(record.abortions[0].generated_tokens)
    assert int(weights.sum()) == generated - answered
    assert (gaps[weights > 0] > 0).all()


@settings(max_examples=30, deadline=None)
@given(
    lengths_strategy,
    st.lists(st.tuples(st.integers(0, 400_000_000), st.integers(0, 11)), max_size=6),
    st.sampled_from(
        [
            {},
            {"async_scheduling": True},
            {"num_gpu_blocks": 200},
            {"scheduling_policy": "priority"},
            {"policy": "gllm"},
        ]
    ),
)
def test_arrived_is_finished_rejected_or_aborted(
    lengths: Lengths, aborts: list[tuple[int, int]], changes: dict[str, Any]
) -> None:
    simulation = Simulation(cluster(**changes), workload(lengths))
    for at_ns, index in sorted(aborts):
        simulation.advance(max(at_ns, simulation.now_ns))
        simulation.abort(index)
    record = simulation.run()
    assert len(record.requests) + len(record.rejections) + len(record.abortions) == len(lengths)
    replica = simulation.instances[0]
    status = replica.scheduler.status()
    assert status.free_blocks == status.usable_blocks
    assert replica.outstanding_tokens == 0


def test_a_host_program_keeps_its_garbage_collector() -> None:
    seen: list[bool] = []

    class Look(Observer):
        def request_ended(self, request: RequestView) -> None:
            seen.append(gc.isenabled())

    Simulation(cluster(), workload([(0, 100, 5)]), observers=[Look()]).run()
    simulation = Simulation(cluster(), workload([(0, 100, 5)]))
    simulation.advance(10**12)
    assert seen == [True]
    assert gc.isenabled()


def test_what_comes_too_late_is_refused() -> None:
    simulation = Simulation(cluster(), workload([(0, 100, 5)]))
    simulation.advance(1_000_000)
    with pytest.raises(ValueError, match="arrives at 5 ns, it is 1000000 ns"):
        simulation.submit(Request(1, 5, 10, 10))
    with pytest.raises(ValueError, match="there is a request 0 already"):
        simulation.submit(Request(0, 2_000_000, 10, 10))


@settings(max_examples=20, deadline=None)
@given(lengths_strategy, st.integers(1, 3), st.integers(1, 4))
def test_a_closed_loop_sends_the_next_request_when_one_ends(
    lengths: Lengths, instances: int, users: int
) -> None:
    options = RunOptions(router="RR", max_concurrency=users)
    log = rows(Simulation(cluster(instances), workload(lengths), options).run())
    arrival_ns, finish_ns = log[:, 4], log[:, 7]
    ends = np.sort(finish_ns)
    asked = sorted(range(len(lengths)), key=lambda index: (lengths[index][0], index))
    for place, index in enumerate(asked):
        open_then = sum(arrival_ns[other] <= arrival_ns[index] < finish_ns[other] for other in asked[:place])
        assert open_then < users
        free_ns = 0 if place < users else ends[place - users]
        assert arrival_ns[index] == max(lengths[index][0], free_ns)


class Tokens(Observer):
    """When each token of each request came."""

    def __init__(self) -> None:
        self.times: dict[int, list[int]] = {}
        self.context_tokens = 0
        self.rejected: list[int] = []

    def tokens_taken(self, tokens: TokensView) -> None:
        self.context_tokens += tokens.context_tokens
        for request in tokens.requests:
            self.times.setdefault(request, []).append(tokens.at_ns)

    def request_rejected(self, rejection: Rejection) -> None:
        self.rejected.append(rejection.request)


MOE = {"model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507", "dp_group": "A", "pp_size": 1}


@pytest.mark.parametrize(
    ("instances", "changes"),
    [
        (1, {}),
        (2, {"pp_size": 4}),
        (1, {"pp_size": 1, "async_scheduling": True}),
        (1, {"async_scheduling": True, "num_gpu_blocks": 260}),
        (1, {"num_gpu_blocks": 260}),
        (1, {"num_gpu_blocks": 260, "scheduling_policy": "priority"}),
        (1, {"policy": "decode-cap", "max_num_batched_tokens": 512}),
        (2, MOE),
    ],
)
def test_an_observer_sees_every_token_at_its_time(instances: int, changes: dict[str, Any]) -> None:
    lengths = [(i * 7_000_000, 100 + 211 * i % 900, 1 + 37 * i % 120) for i in range(24)]
    seen = Tokens()
    spec = cluster(instances, **changes)
    record = Simulation(spec, workload(lengths), OPTIONS, observers=[seen]).run()
    log = record.requests
    for row, request in enumerate(log.values()[:, 0].tolist()):
        assert seen.times[request] == log.token_times_ns(row).tolist()
    assert len(log) == len(lengths)
    if not sum(total.preemptions for total in record.totals):
        assert seen.context_tokens == sum(prompt for _, prompt, _ in lengths)


def test_tokens_of_a_request_that_is_aborted_end_there() -> None:
    seen = Tokens()
    simulation = Simulation(cluster(), workload([(0, 100, 1000), (0, 100, 40)]), observers=[seen])
    simulation.advance(200_000_000)
    assert simulation.abort(0)
    simulation.run()
    (abortion,) = simulation.record().abortions
    assert abortion.generated_tokens == len(seen.times[0])
    assert len(seen.times[1]) == 40


def test_an_observer_sees_who_is_rejected() -> None:
    seen = Tokens()
    Simulation(cluster(), workload([(0, 10_000_000, 1), (5, 10, 1)]), observers=[seen]).run()
    assert seen.rejected == [0]


def test_nothing_happens_before_the_next_event() -> None:
    seen = Tokens()
    simulation = Simulation(cluster(), workload([(1000, 100, 3)]), observers=[seen])
    visited: list[int] = []
    while (at_ns := simulation.next_event_ns()) < NEVER_NS:
        simulation.advance(at_ns)
        assert simulation.next_event_ns() == at_ns
        visited.append(at_ns)
        simulation.advance(at_ns + 1)
    assert visited[0] == 1000
    assert set(seen.times[0]) <= set(visited)


def test_what_has_ended_can_be_forgotten() -> None:
    simulation = Simulation(cluster(), workload([(0, 100, 3), (5_000_000_000, 50, 2)]))
    simulation.advance(4_000_000_000)
    simulation.forget()
    simulation.run()
    assert simulation.record().requests.values()[:, 0].tolist() == [1]
    assert len(simulation.record().token_gaps[0]) == 1
