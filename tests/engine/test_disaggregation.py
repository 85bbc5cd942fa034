"""Whole runs of clusters in which KV moves."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from kv_clusters import cluster, instance
from penstock.engine.build import BuiltInstance
from penstock.engine.fleet import Fleet
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.recording.records import LEG_COLUMNS, REQUEST_COLUMNS, Role, RunRecord
from penstock.scheduler.kv_connector import NO_MATCH, Match, TransferReport
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.load import load_cluster
from penstock.workload.request import Request
from penstock.workload.workload import Call, Columns, Workload


def workload(count: int = 12, prompt: int = 300) -> Workload:
    columns = Columns()
    for number in range(count):
        columns.add(number * 5_000_000, Call(prompt, 20))
    return Workload(columns, "test")


def run(*instances: dict[str, Any], load: Workload | None = None, **more: Any) -> RunRecord:
    return Simulation(load_cluster(cluster(*instances, **more)), load or workload()).run()


def test_every_request_is_prefilled_here_and_decoded_there():
    record = run(
        instance(pd_type="prefill", pp_size=2),
        instance(pd_type="prefill"),
        instance(pd_type="decode", tp_size=2, max_num_seqs=4),
        instance(pd_type="decode", pp_size=2),
    )
    legs = record.requests.legs()
    role, inst = legs[:, LEG_COLUMNS.index("role")], legs[:, LEG_COLUMNS.index("instance")]
    assert len(legs) == 24
    assert set(inst[role == Role.PREFILL]) == {0, 1}
    assert set(inst[role == Role.DECODE]) == {2, 3}
    rows = record.requests.values()
    assert set(rows[:, REQUEST_COLUMNS.index("instance")]) == {2, 3}
    assert set(rows[:, REQUEST_COLUMNS.index("output_tokens")]) == {20}


def test_the_bytes_read_are_those_of_the_prompts():
    record = run(instance(pd_type="prefill"), instance(pd_type="decode", pp_size=2))
    stages = record.deployments[1].memory.stages
    blocks = -(-300 // 16)
    assert sum(one.size_bytes for one in record.transfers) == 12 * blocks * sum(
        stage.kv_bytes_per_block for stage in stages
    )


def test_a_slower_link_delays_first_tokens():
    column = REQUEST_COLUMNS.index("first_token_ns")
    fast, slow = (
        run(instance(pd_type="prefill"), instance(pd_type="decode"), link_bw=speed).requests.values()
        for speed in (100, 1)
    )
    assert slow[:, column].min() > fast[:, column].min()


def test_a_prompt_that_no_decode_instance_can_hold_is_refused_at_once():
    record = run(instance(pd_type="prefill"), instance(pd_type="decode", num_gpu_blocks=10), load=workload(3))
    assert len(record.requests) == 0
    assert [one.reason for one in record.rejections] == [
        "decode instance 1: needs 20 KV blocks (319 tokens), the instance has 9"
    ] * 3


@pytest.mark.parametrize("more", [{}, {"pp_size": 2}, {"async_scheduling": True}])
def test_a_tier_serves_what_the_gpu_has_forgotten(more: dict[str, Any]):
    small = instance(num_gpu_blocks=31, enable_prefix_caching=True, kv_offloading={}, **more)
    record = run(small, load=repeated())
    (totals,) = record.totals
    assert totals.tier is not None
    assert totals.tier.stores
    assert totals.tier.loads
    assert 0 < totals.tier.hit_tokens < totals.tier.looked_up_tokens
    assert len(record.requests) == 16


def repeated() -> Workload:
    """Four prompts in turn, of which the GPU holds one at a time."""
    columns = Columns()
    for number in range(16):
        ids = array("i", [1000 * (number % 4) + place for place in range(320)])
        columns.add(number * 400_000_000, Call(320, 4, input_ids=ids))
    return Workload(columns, "test")


@pytest.mark.parametrize("at_us", range(0, 80_000, 4_000))
def test_a_client_may_leave_wherever_its_request_is(at_us: int):
    config = cluster(
        instance(pd_type="prefill"),
        instance(pd_type="decode"),
        kv_transfer={"proxy_ns": 9_000_000, "kv_lease_duration": 1},
    )
    simulation = Simulation(load_cluster(config), workload(3))
    simulation.advance(at_us * 1000 + 1)
    left = simulation.abort(0)
    record = simulation.run()
    assert left
    assert [one.request for one in record.abortions] == [0]
    assert sorted(record.requests.values()[:, 0].tolist()) == [1, 2]
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert not replica.outstanding_tokens
    assert not simulation.abort(0)


class Unloadable:
    """Says that a prompt's KV can be loaded, and that it could not be."""

    writes_blocks = True
    must_deliver = False

    def __init__(self) -> None:
        self.loads: list[RequestState] = []
        self.given_up: list[RequestState] = []

    def added(self, state: RequestState) -> None: ...

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        return Match(state.request.input_tokens, loads=True) if state.request.index == 0 else NO_MATCH

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        if external_tokens:
            self.loads.append(state)

    def scheduled(self, step: Step, now: int) -> None: ...

    def reported(self, now: int) -> TransferReport | None:
        report = TransferReport(unloadable=self.loads, released=self.given_up)
        self.loads, self.given_up = [], self.loads
        return report

    def finished(self, state: RequestState, now: int) -> bool:
        return state.request.index == 0

    def quiet_until_ns(self) -> int:
        return 0

    def has_work(self) -> bool:
        return False


def test_a_request_whose_kv_cannot_be_loaded_has_failed_and_not_finished():
    simulation = Simulation(
        load_cluster(cluster(instance())), workload(2), connector_for=lambda built: Unloadable()
    )
    record = simulation.run()
    assert record.requests.values()[:, 0].tolist() == [1]
    assert [(one.request, one.failed) for one in record.abortions] == [(0, True)]


def test_a_scheduler_of_ones_own_is_refused_where_kv_goes_the_clusters_way():
    def own(built: BuiltInstance) -> EngineScheduler:
        return make_scheduler(built.spec.scheduler, 1, 100)

    config = load_cluster(cluster(instance(pd_type="prefill"), instance(pd_type="decode")))
    with pytest.raises(UserError, match="takes no connector or scheduler of another"):
        Simulation(config, workload(2), scheduler_for=own)


def roles(record: RunRecord) -> dict[int, list[int]]:
    """Of each request, what its instances were for it."""
    found: dict[int, list[int]] = {}
    for row in record.requests.legs().tolist():
        found.setdefault(row[0], []).append(row[LEG_COLUMNS.index("role")])
    return found


APART, ALONE = [Role.PREFILL, Role.DECODE], [Role.WHOLE]


def test_short_prompts_stay_at_their_decode_instance():
    columns = Columns()
    for number, prompt in enumerate([100, 1000, 101, 100]):
        columns.add(number * 900_000_000, Call(prompt, 5))
    record = run(
        instance(pd_type="prefill"),
        instance(pd_type="decode"),
        load=Workload(columns, "test"),
        kv_transfer={"max_local_prefill_length": 100},
    )
    assert roles(record) == {0: ALONE, 1: APART, 2: APART, 3: ALONE}


def test_a_prompt_that_the_decode_instance_has_cached_stays_there():
    columns = Columns()
    for number in range(2):
        columns.add(number * 2_000_000_000, Call(640, 5, input_ids=array("i", range(640))))
    record = run(
        instance(pd_type="prefill"),
        instance(pd_type="decode", enable_prefix_caching=True),
        load=Workload(columns, "test"),
        kv_transfer={"policy": "conditional", "max_local_prefill_length": 100},
    )
    assert roles(record) == {0: APART, 1: ALONE}


def test_prompts_stay_while_too_many_wait_for_a_prefill_instance():
    columns = Columns()
    for _ in range(4):
        columns.add(0, Call(1000, 5))
    record = run(
        instance(pd_type="prefill"),
        instance(pd_type="decode"),
        load=Workload(columns, "test"),
        kv_transfer={"max_local_prefill_length": 100, "max_prefill_queue_size": 2},
    )
    assert roles(record) == {0: APART, 1: APART, 2: ALONE, 3: ALONE}


class EverySecond:
    """A policy of the user's."""

    def disaggregates(self, request: Request, prefill: Fleet, decode: Fleet, hit_tokens: int) -> bool:
        assert (len(prefill), len(decode)) == (1, 1)
        return request.index % 2 == 1


def test_a_policy_of_ones_own():
    sides = instance(pd_type="prefill"), instance(pd_type="decode")
    record = run(*sides, load=workload(4), kv_transfer={"policy": f"{__name__}:EverySecond"})
    assert roles(record) == {0: ALONE, 1: APART, 2: ALONE, 3: APART}


@pytest.mark.parametrize(
    ("transfer", "message"),
    [
        ({"policy": "conditonal"}, "no policy 'conditonal' (always, conditional or module:Class)"),
        ({"policy": f"{__name__}:Nobody"}, "has no attribute 'Nobody'"),
        ({"policy": f"{__name__}:Unloadable"}, "has no method disaggregates"),
    ],
)
def test_a_policy_that_is_none(transfer: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        run(instance(pd_type="prefill"), instance(pd_type="decode"), kv_transfer=transfer)
    assert message in str(error.value)


MOE = {"model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507", "num_gpu_blocks": 400}


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [
        ({"tp_size": 2}, {"data_parallel_size": 2}),
        ({"data_parallel_size": 2}, {"tp_size": 2}),
        ({"data_parallel_size": 2}, {"data_parallel_size": 4}),
        ({"data_parallel_size": 2, "pp_size": 2}, {"data_parallel_size": 2, "pp_size": 2}),
        ({"data_parallel_size": 2, "async_scheduling": True}, {"data_parallel_size": 2, "pp_size": 2}),
        ({"data_parallel_size": 2, "data_parallel_lb": "external"}, {"data_parallel_size": 2}),
    ],
)
def test_mixtures_of_experts_on_either_side(prefill: dict[str, Any], decode: dict[str, Any]):
    config = cluster(instance(pd_type="prefill", **MOE | prefill), instance(pd_type="decode", **MOE | decode))
    simulation = Simulation(load_cluster(config), workload(16))
    record = simulation.run()
    assert roles(record) == dict.fromkeys(range(16), APART)
    there: dict[int, int] = {}
    size: dict[int, int] = {}
    for one in record.transfers:
        there[one.request] = max(there.get(one.request, 0), one.end_ns)
        size[one.request] = size.get(one.request, 0) + one.size_bytes
    answers = [
        one for one in simulation.instances if simulation.cluster.instances[one.index].pd_type == "decode"
    ]
    reader = record.deployments[answers[0].index]
    needed = -(-300 // 16) * sum(one.kv_bytes_per_block for one in reader.memory.stages) * reader.tp_size
    assert set(size.values()) == {needed}
    for row in record.requests.values().tolist():
        assert row[REQUEST_COLUMNS.index("first_token_ns")] > there[row[0]]
        assert row[REQUEST_COLUMNS.index("output_tokens")] == 20
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert not replica.outstanding_tokens


def test_ranks_that_look_by_turns_need_turns():
    side = {"data_parallel_size": 2, "engine_idle_sleep_ns": 0, **MOE}
    with pytest.raises(UserError, match="must be above 0 for ranks in lock-step with pd_type"):
        load_cluster(cluster(instance(pd_type="prefill", **side), instance(pd_type="decode", **MOE)))
