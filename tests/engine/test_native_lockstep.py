"""Ranks in lock-step in machine code do what those in Python do, to the byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from both_ways import Turns, difference, needs_core
from engine.test_lockstep_runs import INSTANCES, LENGTHS, small_ranks
from penstock import machine_code
from penstock.cost.stage import MixedStageCost
from penstock.cost.step_cost import PipelineCost
from penstock.engine.data_parallel import DataParallelDeployment
from penstock.engine.kernel import Agenda, Phase
from penstock.engine.lockstep import LockstepGroup
from penstock.engine.lockstep_replica import LockstepReplica, lockstep_notes
from penstock.engine.native import reason_against
from penstock.engine.native_lockstep import NativeLockstep
from penstock.engine.native_replica import Segments
from penstock.engine.replica import Replica
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError
from penstock.recording.records import REQUEST_COLUMNS, TURN_COLUMNS, TurnChunk
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.spec.options import EngineOverhead, RunOptions
from penstock.units import NEVER_NS
from penstock.validate.data_parallel import arriving_requests, data_parallel_options, group_cost
from penstock.validate.recordings import read_recordings
from penstock.workload.request import Request
from penstock.workload.workload import Workload
from reference.cluster import InstanceCase
from reference.group_cases import GroupCase, seeded_group
from reference.simulated import built_instance

pytestmark = needs_core

_INSTANCE = REQUEST_COLUMNS.index("instance")
_FINISH = REQUEST_COLUMNS.index("finish_ns")

MORE: list[dict[str, Any]] = [
    {"pp_size": 2, "async_scheduling": True},
    {"data_parallel_lb": "hybrid", "data_parallel_size_local": 1},
    {"policy": "decode-cap", "pp_size": 2},
    {"prefill_schedule_interval": 4},
]
OPTIONS = st.builds(
    RunOptions,
    exact_only=st.booleans(),
    keep_token_times=st.booleans(),
    max_concurrency=st.sampled_from([0, 0, 3]),
)


def failure(
    patch: pytest.MonkeyPatch,
    instance: dict[str, Any],
    lengths: list[tuple[int, int, int]],
    options: RunOptions,
    instances: int = 1,
) -> str | None:
    cluster = small_ranks(instance, instances)
    arrivals, prompts, answers = (list(column) for column in zip(*sorted(lengths), strict=True))
    return difference(patch, cluster, Workload.from_columns(arrivals, prompts, answers, "test"), options)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(INSTANCES + MORE), LENGTHS, OPTIONS, st.integers(1, 2))
def test_groups_are_served_alike(
    monkeypatch: pytest.MonkeyPatch,
    instance: dict[str, Any],
    lengths: list[tuple[int, int, int]],
    options: RunOptions,
    instances: int,
) -> None:
    assert failure(monkeypatch, instance, lengths, options, instances) is None


# --- the recordings, and random groups with messages that take their time --------------------------------------


@dataclass(frozen=True)
class Served:
    """What ranks did, and why they stopped if they could not go on."""

    turns: list[list[list[int]]]
    ended: list[list[int]]
    gaps: list[list[list[int]]]
    counts: list[tuple[int, ...]]
    notes: list[tuple[str, ...]]
    error: str | None


def in_python(case: GroupCase, exact_only: bool) -> Served:
    agenda = Agenda()
    options, parallel, cost = case.options, case.parallel, case.cost
    hops = [cost.hop(options.max_num_batched_tokens)] * (cost.stages - 1)
    group = LockstepGroup(
        cost,
        parallel.size,
        hops,
        [0] * (options.max_num_seqs + 1),
        sync_ns=parallel.sync_ns,
        tail_ns=cost.tail_ns,
    )
    deployment = DataParallelDeployment(agenda, parallel)
    turns = Turns()
    ended: list[list[int]] = []

    def on_end(replica: Replica, state: RequestState, at_ns: int) -> None:
        request = state.request
        generated = state.num_tokens - request.input_tokens
        lengths = (request.index, replica.index, request.input_tokens, generated, request.arrival_ns)
        times = (state.first_scheduled_ns or 0, state.first_token_ns or 0, at_ns)
        tokens = [time for kept, start, stop in state.segments for time in kept[start:stop]]
        ended.append([*lengths, *times, state.preemptions, state.cached_tokens or 0, *tokens])

    ranks = [
        LockstepReplica(
            rank,
            rank,
            make_scheduler(
                options, cost.stages, case.num_gpu_blocks, keep_token_times=True, exact_only=exact_only
            ),
            group,
            options,
            parallel,
            TurnLog(rank, cost.stages, [turns]),
            agenda=agenda,
            tell=deployment.tell,
            tell_ended=partial(deployment.tell_ended, rank),
            on_end=on_end,
        )
        for rank in range(parallel.size)
    ]
    deployment.complete(ranks)
    for rank, replica in enumerate(ranks):
        agenda.add(replica, Phase.ENGINE, rank)

    def deliver_messages(now: int) -> None:
        while agenda.next_ns() <= now and agenda.next_is(Phase.MESSAGE):
            agenda.run_next(now + 1, alone=False)

    def route(now: int, request: Request, front_end: int, rank: int | None) -> None:
        state = RequestState(request, options.max_model_len)
        deployment.route(now, state, deployment.front_ends[front_end], rank)

    error = drive(case, agenda, route, deliver_messages)
    for replica in ranks:
        replica.flush()
    return Served(
        [turns.of(rank).tolist() if rank in turns.rows else [] for rank in range(parallel.size)],
        ended,
        [replica.token_gaps().tolist() for replica in ranks],
        [
            (
                replica.log.iterations,
                replica.log.empty_schedules,
                replica.idle_sleeps,
                replica.scheduler.preemptions,
                replica.log.prompt_tokens,
                replica.log.generated_tokens,
                *replica.log.busy_ns(),
                replica.now_ns,
                replica.last_stage_ns,
            )
            for replica in ranks
        ],
        [lockstep_notes(replica) for replica in ranks],
        error,
    )


def in_machine_code(case: GroupCase, exact_only: bool) -> Served:
    agenda = Agenda()
    options, parallel, cost = case.options, case.parallel, case.cost
    hops = (cost.hop(options.max_num_batched_tokens),) * (cost.stages - 1)
    pipeline = PipelineCost(MixedStageCost([]), hops, [0] * (options.max_num_seqs + 1))
    turns = Turns()
    ended: list[list[int]] = []
    core = machine_code.core()

    def on_end(rows: bytes, segments: Sequence[Segments]) -> None:
        values = np.frombuffer(rows, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS)).tolist()
        for row, slices in zip(values, segments, strict=True):
            ended.append([*row, *(time for kept, start, stop in slices for time in kept[start:stop])])

    one = InstanceCase(options, case.num_gpu_blocks, pipeline, EngineOverhead(), False)
    built = []
    for rank in range(parallel.size):
        plain = built_instance(rank, one)
        spec = replace(plain.spec, dp_group="A", dp_size=parallel.size, dp_rank=rank, data_parallel=parallel)
        built.append(replace(plain, spec=spec, group_cost=cost))
        assert reason_against(built[-1]) is None
    lockstep = NativeLockstep(
        core,
        built,
        options=RunOptions(keep_token_times=True, exact_only=exact_only),
        sinks=[turns],
        on_end=on_end,
        agenda=agenda,
        tail_ns=[cost.tail_ns(requests) for requests in range(options.max_num_seqs + 1)],
    )
    agenda.add(lockstep, Phase.ENGINE, 0)
    deployment = lockstep.deployments[0]

    def route(now: int, request: Request, front_end: int, rank: int | None) -> None:
        deployment.route(now, request, front_end, -1 if rank is None else rank)

    error = drive(case, agenda, route, lockstep.deliver_messages)
    for replica in lockstep.ranks:
        replica.flush()
    totals = [replica.totals() for replica in lockstep.ranks]
    return Served(
        [turns.of(rank).tolist() if rank in turns.rows else [] for rank in range(parallel.size)],
        ended,
        [replica.token_gaps().tolist() for replica in lockstep.ranks],
        [
            (
                each.iterations,
                each.empty_schedules,
                each.idle_sleeps,
                each.preemptions,
                each.prompt_tokens,
                each.generated_tokens,
                *each.busy_ns,
                each.end_ns,
                replica.last_stage_ns,
            )
            for each, replica in zip(totals, lockstep.ranks, strict=True)
        ],
        [each.notes for each in totals],
        error,
    )


def drive(
    case: GroupCase,
    agenda: Agenda,
    route: Callable[[int, Request, int, int | None], None],
    deliver_messages: Callable[[int], None],
) -> str | None:
    """Let requests come as the recordings do: messages that arrive at one instant are there before."""
    try:
        for each in sorted(case.arriving, key=lambda each: each.request.arrival_ns):
            at_ns = each.request.arrival_ns
            while agenda.next_ns() < at_ns:
                agenda.run_next(at_ns, alone=False)
            deliver_messages(at_ns)
            route(at_ns, each.request, each.front_end, each.rank)
        while agenda.next_ns() < NEVER_NS:
            agenda.run_next(NEVER_NS, alone=False)
    except NoProgressError as error:
        return str(error)
    return None


def failure_of_case(case: GroupCase, *, exact_only: bool) -> str | None:
    """The first difference; None where there is none."""
    expected, found = in_python(case, exact_only), in_machine_code(case, exact_only)
    if expected.error is not None:
        return None if found.error == expected.error else f"{expected.error} is not {found.error}"
    for name, value in vars(expected).items():
        other = getattr(found, name)
        if value != other:
            if name == "turns":
                pairs = [
                    (a, b) for x, y in zip(value, other, strict=True) for a, b in zip(x, y, strict=False)
                ]
                return next((f"turn {a} is not {b}" for a, b in pairs if a != b), "one has more turns")
            return f"{name}: {value} is not {other}"
    return None


@pytest.mark.parametrize("exact_only", [False, True])
def test_the_recorded_groups_are_served_alike(shared_dir: Path, exact_only: bool) -> None:
    found: list[str] = []
    cases = 0
    for recording in read_recordings(shared_dir / "oracle" / "vllm-0.32.0-dp"):
        case = GroupCase(
            data_parallel_options(recording),
            recording.options(),
            recording.num_gpu_blocks,
            group_cost(recording),
            tuple(arriving_requests(recording)),
        )
        cases += 1
        unequal = failure_of_case(case, exact_only=exact_only)
        if unequal is not None:
            found.append(f"{recording.case}: {unequal}")
    assert cases == 109
    assert found == []


@pytest.mark.parametrize("seed", range(100))
def test_seeded_groups_are_equal(seed: int) -> None:
    assert failure_of_case(seeded_group(seed), exact_only=seed % 3 == 0) is None


@given(seed=st.integers(1_000_000, 2**63))
@settings(deadline=None)
def test_random_groups_are_equal(seed: int) -> None:
    assert failure_of_case(seeded_group(seed), exact_only=seed % 3 == 0) is None


def test_who_has_left_is_told_before_the_turns() -> None:
    """A sink that gets turns of a rank knows of every request that ended there before the last of them."""
    arrivals = [place * 1_000_000 for place in range(40)]
    answers = [400 + 150 * place for place in range(40)]
    workload = Workload.from_columns(arrivals, [50] * 40, answers, "test")
    told: list[tuple[int, int, int]] = []

    class Sink:
        def accept(self, chunk: TurnChunk) -> None:
            last_ns = int(chunk.values[-1, TURN_COLUMNS.index("schedule_ns")])
            told.append((chunk.instance, last_ns, len(ended_at(chunk.instance, last_ns))))

    def ended_at(rank: int, until_ns: int) -> np.ndarray:
        rows = simulation._outcomes.log.values()  # pyright: ignore[reportPrivateUsage]
        return rows[(rows[:, _INSTANCE] == rank) & (rows[:, _FINISH] <= until_ns)]

    simulation = Simulation(small_ranks({}), workload, RunOptions(), sinks=[Sink()])
    simulation.run()
    assert told == [(rank, last_ns, len(ended_at(rank, last_ns))) for rank, last_ns, _ in told]
    assert 0 < told[0][2] < told[-1][2]
