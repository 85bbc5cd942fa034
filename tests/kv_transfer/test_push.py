"""Prefill instances that push: small cases counted by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from kv_clusters import cluster, instance
from penstock.cost.linear import LinearStage, LinearStageCost
from penstock.cost.step_cost import PipelineCost
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.messages import Messages
from penstock.engine.replica import Replica
from penstock.engine.simulation import Simulation
from penstock.kv_transfer.push import PushReceiver, PushSender, PushWay, PushWorkers, PushWorld
from penstock.network.links import Network
from penstock.recording.records import LEG_COLUMNS, REQUEST_COLUMNS, Role, Transfer
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.load import load_cluster
from penstock.spec.options import SchedulerOptions
from penstock.units import NEVER_NS
from penstock.workload.request import Request
from penstock.workload.workload import Workload

HUNDRED_NS_A_TOKEN = PipelineCost(LinearStageCost((LinearStage(0, 100, 0),)), (), [0] * 5000)


@dataclass
class Pair:
    """A prefill and a decode instance of one stage: 100 ns a token, 32 tokens a step, pages of 16 tokens, a turn
    every 1,000 ns while idle; 700 ns on the link for each page, 500 ns for a message."""

    decode_blocks: int = 100
    reserved: int = 0
    ended: list[tuple[int, int, int | None, int]] = field(default_factory=list)
    pushes: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agenda = Agenda()
        self.network = Network(lambda at_ns: self.agenda.wake(self.network, at_ns))
        messages = Messages(self.agenda)
        self.agenda.add(messages, Phase.MESSAGE, 0)
        self.agenda.add(self.network, Phase.LINK, 0)
        self.world = PushWorld(self.network, self, messages.send, 500, self._note)
        options = SchedulerOptions(
            max_num_batched_tokens=32, enable_prefix_caching=False, engine_idle_sleep_ns=1000
        )
        self.sender = PushSender(0, 16, self.world, lambda at_ns, by: None, sleeps=True)
        self.receiver = PushReceiver(1, self.world, lambda at_ns: None, reserved_tokens=self.reserved)
        self.replicas = [
            self._replica(place, make_scheduler(options, 1, blocks, connector=connector), options)
            for place, (connector, blocks) in enumerate(
                ((self.sender, 100), (self.receiver, self.decode_blocks))
            )
        ]

    def _replica(self, place: int, scheduler: VllmScheduler, options: SchedulerOptions) -> Replica:
        if place:
            self.receiver.scheduler = scheduler
        replica = Replica(
            place,
            scheduler,
            LocalPipeline(HUNDRED_NS_A_TOKEN, 1),
            options,
            TurnLog(place, 1),
            agenda=self.agenda,
            on_end=self._end,
            workers=PushWorkers(),
        )
        self.agenda.add(replica, Phase.ENGINE, place)
        return replica

    def push_ways(self, source: int, target: int, blocks: int) -> tuple[PushWay, ...]:
        link = self.network.shared_link("wire")
        return (PushWay(0, (link,), 1024 * blocks, 700 * blocks, 700 * blocks),)

    def _note(self, one: Transfer) -> None:
        self.pushes.append((one.request, one.blocks, one.post_ns, one.start_ns, one.end_ns))

    def _end(self, replica: Replica, state: RequestState, at_ns: int) -> None:
        self.ended.append((replica.index, state.request.index, state.first_token_ns, at_ns))

    def come(self, index: int, prompt: int, answer: int) -> None:
        """Both sides get a request at 0."""
        self.sender.keep_for_reader(index, 1)
        self.receiver.expect(index, 0)
        for replica, tokens in zip(self.replicas, (1, answer), strict=True):
            replica.deliver(RequestState(Request(index, 0, prompt, tokens), 10_000))
            self.agenda.wake(replica, 0)

    def run(self) -> None:
        while self.agenda.next_ns() < NEVER_NS:
            self.agenda.run_next(NEVER_NS, alone=False)


def test_pages_follow_the_steps_that_fill_them_and_the_first_token_comes_with_the_last() -> None:
    pair = Pair()
    pair.come(7, prompt=76, answer=3)
    pair.run()
    # The decode side gives blocks at 0 and says so by 500; the prefill side looks again at 1,000. Steps of 32, 32
    # and 12 tokens end at 4,200, 7,400 and 8,600. The first two fill two pages each, the rest is one.
    assert pair.pushes == [
        (7, 2, 4200, 4200, 5600),
        (7, 2, 7400, 7400, 8800),
        (7, 1, 8600, 8800, 9500),
    ]
    # The prefill side's answer is there at 8,600. All KV and the token are on the other side at 9,500: it looks at
    # 10,000, and decodes from its next turn on, at 11,000, a token in 100 ns.
    assert pair.ended == [(0, 7, 8600, 8600), (1, 7, 10_000, 11_200)]
    for replica in pair.replicas:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks


def test_an_answer_of_one_token_is_never_decoded() -> None:
    pair = Pair()
    pair.come(0, prompt=16, answer=1)
    pair.run()
    assert pair.pushes == [(0, 1, 2600, 2600, 3300)]
    assert pair.ended == [(0, 0, 2600, 2600), (1, 0, 4000, 4000)]
    assert [one.scheduler.status().free_blocks for one in pair.replicas] == [99, 99]


def test_a_prompt_waits_until_the_decode_side_has_blocks_for_it() -> None:
    pair = Pair(decode_blocks=11)  # ten for use
    pair.come(0, prompt=128, answer=2)
    pair.come(1, prompt=64, answer=2)
    pair.run()
    first, second = (next(one for one in pair.ended if one[:2] == (1, request)) for request in (0, 1))
    (post_ns, *_) = [one[2] for one in pair.pushes if one[0] == 1]
    assert post_ns > first[3]
    assert second[3] > first[3]


@pytest.mark.parametrize(("reserved", "together"), [(16, True), (32, False)])
def test_room_is_kept_for_answers(reserved: int, *, together: bool) -> None:
    # 64 + 16 tokens: five pages of ten; with one more reserved, four are left for the second prompt, with two, three.
    pair = Pair(decode_blocks=10, reserved=reserved)
    pair.come(0, prompt=64, answer=10)
    pair.come(1, prompt=64, answer=10)
    pair.run()
    first_end = next(one[3] for one in pair.ended if one[:2] == (1, 0))
    assert (min(one[2] for one in pair.pushes if one[0] == 1) < first_end) is together


PUSH = {"kind": "push"}
SIDES = [
    ({}, {}),
    ({"pp_size": 2}, {}),
    ({}, {"pp_size": 4}),
    ({"tp_size": 2, "pp_size": 4}, {"pp_size": 2, "async_scheduling": True}),
    ({"engine": "sglang"}, {"engine": "sglang", "enable_prefix_caching": False}),
    (
        {"model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507", "data_parallel_size": 2, "num_gpu_blocks": 900},
        {"model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507", "data_parallel_size": 2, "num_gpu_blocks": 900},
    ),
]


def load(count: int = 12) -> Workload:
    times = [number * 5_000_000 for number in range(count)]
    return Workload.from_columns(times, [300 + number for number in range(count)], [20] * count, "test")


@pytest.mark.parametrize(("prefill", "decode"), SIDES)
def test_all_bytes_come_before_the_first_token_and_no_block_is_lost(
    prefill: dict[str, object], decode: dict[str, object]
) -> None:
    config = cluster(
        instance(pd_type="prefill", **prefill), instance(pd_type="decode", **decode), kv_transfer=PUSH
    )
    simulation = Simulation(load_cluster(config), load())
    record = simulation.run()
    legs = record.requests.legs()
    assert legs[:, LEG_COLUMNS.index("role")].tolist() == [Role.PREFILL, Role.DECODE] * 12
    reader = record.deployments[-1]
    stages = reader.memory.stages
    for row in record.requests.values().tolist():
        moved = [one for one in record.transfers if one.request == row[0]]
        assert row[REQUEST_COLUMNS.index("first_token_ns")] >= max(one.end_ns for one in moved)
        assert row[REQUEST_COLUMNS.index("output_tokens")] == 20
        blocks = -(-row[2] // reader.memory.block_size)
        needed = blocks * sum(one.kv_bytes_per_block for one in stages) * reader.tp_size
        assert needed <= sum(one.size_bytes for one in moved) <= needed + len(moved)
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert not replica.outstanding_tokens


@pytest.mark.parametrize("at_us", range(0, 60_000, 5_000))
def test_a_client_may_leave_wherever_its_request_is(at_us: int) -> None:
    config = cluster(instance(pd_type="prefill"), instance(pd_type="decode"), kv_transfer=PUSH)
    simulation = Simulation(load_cluster(config), load(3))
    simulation.advance(at_us * 1000 + 1)
    assert simulation.abort(0)
    record = simulation.run()
    assert [one.request for one in record.abortions] == [0]
    assert sorted(record.requests.values()[:, 0].tolist()) == [1, 2]
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert not replica.outstanding_tokens
