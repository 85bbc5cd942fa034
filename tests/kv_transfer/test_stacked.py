"""Instances with two connectors: KV from another instance, and a tier below the GPU."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from kv_clusters import cluster, instance
from penstock.engine.simulation import Simulation
from penstock.kv_transfer.stacked import StackedConnector, StackedWorkers, find_workers, stack_connectors
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.recording.records import RunRecord, TierTotals
from penstock.scheduler.kv_connector import NO_MATCH, UNTIL_CALLED, CallsBack, Match, TransferReport
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.load import load_cluster
from penstock.units import NEVER_NS
from penstock.workload.request import Request
from penstock.workload.workload import Call, Columns, Workload


class Scripted:
    """A connector that answers as it was told, and notes what it is told."""

    writes_blocks = False
    must_deliver = False

    def __init__(
        self, match: Match | None = NO_MATCH, *, holds: bool = False, quiet_ns: int = NEVER_NS
    ) -> None:
        self.match = match
        self.holds = holds
        self.quiet_ns = quiet_ns
        self.filled: list[int] = []
        self.report: TransferReport | None = None

    def added(self, state: RequestState) -> None: ...

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        return self.match

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        self.filled.append(external_tokens)

    def scheduled(self, step: Step, now: int) -> None: ...

    def reported(self, now: int) -> TransferReport | None:
        return self.report

    def finished(self, state: RequestState, now: int) -> bool:
        return self.holds

    def quiet_until_ns(self) -> int:
        return self.quiet_ns

    def has_work(self) -> bool:
        return self.holds


class Caller(Scripted):
    def __init__(self, called: RequestState) -> None:
        super().__init__(UNTIL_CALLED)
        self.waits = called

    def called(self, now: int) -> list[RequestState]:
        return [self.waits]


def state() -> RequestState:
    return RequestState(Request(0, 0, 100, 5), 10_000)


def test_the_first_that_has_tokens_loads_them_and_the_others_none() -> None:
    members = [Scripted(), Scripted(Match(64, loads=True)), Scripted(Match(80, loads=True))]
    stack, one = StackedConnector(members), state()
    assert stack.matched_tokens(one, 0) == Match(64, loads=True)
    stack.allocated(one, 0, 64)
    assert [member.filled for member in members] == [[0], [64], [0]]


@pytest.mark.parametrize("answer", [None, UNTIL_CALLED])
def test_whoever_does_not_know_yet_is_waited_for(answer: Match | None) -> None:
    assert StackedConnector([Scripted(Match(64)), Scripted(answer)]).matched_tokens(state(), 0) is answer


def test_blocks_are_free_when_the_last_lets_go() -> None:
    members = [Scripted(holds=True), Scripted(holds=True), Scripted()]
    stack, one = StackedConnector(members), state()
    assert stack.finished(one, 5)
    members[0].report = TransferReport(released=[one])
    first = stack.reported(6)
    assert first is not None
    assert first.released == []
    members[0].report, members[1].report = None, TransferReport(released=[one])
    second = stack.reported(7)
    assert second is not None
    assert second.released == [one]


def test_what_concerns_one_concerns_the_stack() -> None:
    quiet = StackedConnector([Scripted(quiet_ns=7), Scripted(quiet_ns=5, holds=True)])
    assert (quiet.quiet_until_ns(), quiet.has_work()) == (5, True)
    assert StackedConnector([Scripted(), Scripted()]).reported(0) is None
    one = state()
    calling = stack_connectors([Scripted(), Caller(one)])
    assert isinstance(calling, CallsBack)
    assert list(calling.called(3)) == [one]
    assert not isinstance(stack_connectors([Scripted()]), CallsBack)


SMALL = {"num_gpu_blocks": 41, "enable_prefix_caching": True}


def tiers(record: RunRecord) -> list[TierTotals]:
    return [one.tier for one in record.totals if one.tier is not None]


def in_turn(count: int = 12, families: int = 4, gap_ns: int = 400_000_000) -> Workload:
    columns = Columns()
    for number in range(count):
        ids = array("i", [1000 * (number % families) + place for place in range(320)])
        columns.add(number * gap_ns, Call(320, 4, input_ids=ids))
    return Workload(columns, "test")


def run(config: dict[str, Any], load: Workload) -> RunRecord:
    simulation = Simulation(load_cluster(config), load)
    record = simulation.run()
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert not replica.outstanding_tokens
    return record


@pytest.mark.parametrize("kind", ["pull", "push"])
@pytest.mark.parametrize("sides", [{}, {"pp_size": 2}, {"async_scheduling": True}])
@pytest.mark.parametrize("load", ["async", "sync"])
def test_a_prefill_instance_computes_no_prompt_again_that_its_tier_holds(
    kind: str, sides: dict[str, Any], load: str
) -> None:
    below: dict[str, Any] = {"kv_offloading": {"load": load}}
    config = cluster(
        instance(pd_type="prefill", **SMALL, **sides, **below),
        instance(pd_type="decode", enable_prefix_caching=False, **sides),
        kv_transfer={"kind": kind},
    )
    record = run(config, in_turn())
    (tier,) = tiers(record)
    # A whole prompt, but for the token that has to be computed where a step waits for the rest.
    assert (tier.stores, tier.loads, tier.hit_tokens) == (4, 8, 8 * (320 if load == "async" else 319))
    reader = record.deployments[1]
    moved = sum(one.size_bytes for one in record.transfers)
    whole = sum(one.kv_bytes_per_block for one in reader.memory.stages) * 20
    assert moved == 12 * whole


@pytest.mark.parametrize("kind", ["pull", "push"])
def test_a_decode_instance_loads_its_own_preempted_requests_from_its_tier(kind: str) -> None:
    columns = Columns()
    for number in range(4):
        ids = array("i", range(1000 * number, 1000 * number + 160))
        columns.add(number * 1_000_000, Call(160, 200, input_ids=ids))
    config = cluster(
        instance(pd_type="prefill"),
        # Four prompts fit, their answers do not.
        instance(
            pd_type="decode", num_gpu_blocks=46, enable_prefix_caching=False, kv_offloading={}, watermark=0.0
        ),
        kv_transfer={"kind": kind} | ({"num_reserved_decode_tokens": 0} if kind == "push" else {}),
    )
    record = run(config, Workload(columns, "test"))
    (tier,) = tiers(record)
    assert record.totals[1].preemptions > 0
    assert 0 < tier.loads <= record.totals[1].preemptions
    # What comes from the other side is no hit of the tier's.
    assert tier.hit_tokens == 160 * tier.loads


def test_what_prefill_instances_have_stored_decode_instances_find() -> None:
    # All but the first come to the decode instance whole: it has read one, and its tier another.
    shared = {"shared": "node"}
    config = cluster(
        instance(pd_type="prefill", **SMALL, kv_offloading=shared),
        instance(pd_type="decode", **SMALL, kv_offloading=shared),
        kv_transfer={"policy": f"{__name__}:OnlyTheFirst"},
    )
    prefill, decode = tiers(run(config, in_turn(6, families=1)))
    assert (prefill.stores, decode.stores) == (1, 0)
    assert 0 < decode.hit_tokens < decode.looked_up_tokens
    prefill, decode = tiers(run(config, in_turn(6, families=2)))
    assert (prefill.stores, decode.stores) == (1, 1)
    assert decode.loads == 4


class OnlyTheFirst:
    def disaggregates(self, request: Request, prefill: Any, decode: Any, hit_tokens: int) -> bool:
        return request.index == 0


def test_the_tokens_that_come_from_elsewhere_are_not_read_a_second_time() -> None:
    """The tier in front: what it holds is copied, the other side is only told, the rest is computed."""
    from penstock.kv_transfer.pull import PullConnector, PullOptions

    pull = PullConnector(PullOptions("kv_consumer"))
    pull.expect(0, 7)
    stack, one = StackedConnector([Scripted(Match(64, loads=True)), pull]), state()
    stack.added(one)
    assert stack.matched_tokens(one, 0) == Match(64, loads=True)
    one.held_blocks = 4
    stack.allocated(one, 0, 64)
    stack.scheduled(Step(), 3)
    ((_, orders),) = pull.latest
    assert [(read.source, read.blocks) for read in orders.reads] == [(7, 0)]
    assert pull.loading == {}


class NoWorkers:
    def __init__(self, stage_free_ns: int = 0) -> None:
        self.heard: list[str] = []
        self._moves_to_ns = stage_free_ns

    def started(self, step: Step, stage: int, start_ns: int, end_ns: int) -> None:
        self.heard.append("started")

    def passed(self, step: Step, now: int, stage_free_ns: list[int]) -> int:
        self.heard.append(f"passed at {stage_free_ns[0]}")
        stage_free_ns[0] = max(stage_free_ns[0], self._moves_to_ns)
        return stage_free_ns[0]

    def quiet_until_ns(self) -> int:
        return 9

    def went_by(self, older: int, times: object) -> None:
        self.heard.append("went by")

    def collect(self, now: int) -> None:
        self.heard.append("collect")


def test_workers_of_a_stack_hear_everything_and_who_holds_a_step_back_goes_first() -> None:
    reads, copies = NoWorkers(), NoWorkers(70)
    stack = StackedWorkers([reads, copies])
    stack.started(Step(), 0, 1, 2)
    assert stack.passed(Step(), 5, [6]) == 70
    stack.went_by(0, [])
    stack.collect(3)
    assert reads.heard == ["started", "passed at 70", "went by", "collect"]
    assert copies.heard == ["started", "passed at 6", "went by", "collect"]
    assert stack.quiet_until_ns() == 9
    assert find_workers(stack, NoWorkers) is reads
    alone: StepWorkers = copies
    assert find_workers(alone, NoWorkers) is copies
    assert find_workers(None, NoWorkers) is None
