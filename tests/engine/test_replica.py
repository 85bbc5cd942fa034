from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cost.step_cost import HopCost, PipelineCost, StepLoad
from penstock.engine.replay import replay
from penstock.engine.replica import Replica
from penstock.errors import NoProgressError
from penstock.recording.records import TURN_COLUMNS, Cause, TurnChunk
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.workload.request import Request
from replicas import local_replica, serve_all


class PerToken:
    """Every stage takes ``fixed + per_token * tokens`` ns."""

    def __init__(self, stages: int, fixed: int, per_token: int = 0) -> None:
        self.stages, self.fixed, self.per_token = stages, fixed, per_token

    def stage_ns(self, load: StepLoad) -> list[int]:
        return [self.fixed + self.per_token * (load.prefill_tokens + load.decodes)] * self.stages

    def notes(self) -> tuple[str, ...]:
        return ()


class Keep:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.chunks: list[TurnChunk] = []

    def accept(self, chunk: TurnChunk) -> None:
        self.chunks.append(chunk)

    def column(self, name: str) -> list[int]:
        return [int(value) for chunk in self.chunks for value in chunk.column(name)]


def pipeline_cost(stages: int, fixed: int, per_token: int = 0, hop: int = 0) -> PipelineCost:
    hops = (HopCost([hop] * 5000, [0] * 5000),) * (stages - 1)
    return PipelineCost(PerToken(stages, fixed, per_token), hops, [0] * 5000)


def serve(
    requests: Sequence[Request],
    options: SchedulerOptions,
    cost: PipelineCost,
    *,
    blocks: int = 10_000,
    overhead: EngineOverhead | None = None,
) -> tuple[Replica, Keep]:
    keep = Keep()
    replica = local_replica(options, cost, blocks=blocks, overhead=overhead, sinks=[keep])
    serve_all(replica, requests)
    return replica, keep


@pytest.mark.parametrize("stages", range(1, 9))
def test_the_bubble_of_the_textbook_pipeline(stages: int) -> None:
    """m equal micro-batches over p equal stages without hops: (p - 1) / (m + p - 1) of the time is bubble."""
    for micro_batches in range(1, 33):
        options = SchedulerOptions(max_num_batched_tokens=64, max_in_flight=stages)
        requests = [Request(index, 0, 64, 1) for index in range(micro_batches)]
        replica, keep = serve(requests, options, pipeline_cost(stages, 1_000_003))
        steps = zip(keep.column("tokens"), keep.column("done_ns"), strict=True)
        window = max(done for tokens, done in steps if tokens)
        assert window == (micro_batches + stages - 1) * 1_000_003
        for busy in replica.log.busy_ns():
            assert (window - busy) * (micro_batches + stages - 1) == (stages - 1) * window


def test_one_request_on_one_stage_takes_a_step_a_token() -> None:
    trace = replay(SchedulerOptions(), 100, pipeline_cost(1, 10), [Request(0, 5, 40, 4)])
    assert trace.requests[0]["token_times_ns"] == [15, 25, 35, 45]


def test_an_arrival_waits_for_the_oldest_step_while_the_engine_is_blocked() -> None:
    options = SchedulerOptions(max_in_flight=2, engine_idle_sleep_ns=0)
    cost = pipeline_cost(2, 100)
    trace = replay(options, 1000, cost, [Request(0, 0, 10, 3), Request(1, 50, 10, 1)])
    assert trace.requests[1]["first_scheduled_ns"] == 200


def test_a_turn_that_schedules_nothing_is_followed_by_the_idle_sleep() -> None:
    options = SchedulerOptions(max_in_flight=2, engine_idle_sleep_ns=1000)
    trace = replay(options, 1000, pipeline_cost(2, 100), [Request(0, 0, 10, 2)])
    assert [row["t_schedule_ns"] for row in trace.iterations] == [0, 1200]


def test_engine_overhead_stands_between_the_engine_and_the_stages() -> None:
    options = SchedulerOptions(engine_idle_sleep_ns=0)
    overhead = EngineOverhead(
        schedule_ns=7, update_ns=11, ipc_to_first_stage_ns=100, ipc_from_last_stage_ns=1000
    )
    _, keep = serve([Request(0, 0, 10, 2)], options, pipeline_cost(1, 50), overhead=overhead)
    assert keep.column("schedule_ns")[:2] == [0, 7 + 100 + 50 + 1000 + 11]
    assert keep.column("done_ns")[0] == 7 + 100 + 50 + 1000


def test_causes_say_why_nothing_more_was_scheduled() -> None:
    options = SchedulerOptions(max_num_seqs=1, max_in_flight=2, engine_idle_sleep_ns=0)
    _, keep = serve([Request(0, 0, 10, 2), Request(1, 0, 10, 1)], options, pipeline_cost(2, 10))
    assert keep.column("cause_after")[0] == Cause.SEQS
    _, keep = serve([Request(0, 0, 10, 2)], options, pipeline_cost(2, 10))
    assert keep.column("cause_after")[:2] == [Cause.DEPENDENCY, Cause.DEPENDENCY]
    small = SchedulerOptions(max_num_batched_tokens=8, max_in_flight=1)
    _, keep = serve([Request(0, 0, 10, 1)], small, pipeline_cost(1, 10))
    assert keep.column("cause_after")[0] == Cause.ENGINE


def test_work_that_can_never_run_is_an_error_that_names_the_instance() -> None:
    with pytest.raises(NoProgressError, match=r"instance 0 makes no progress .* 1 waiting, .* request 7"):
        serve([Request(7, 0, 100, 1)], SchedulerOptions(), pipeline_cost(1, 10), blocks=4)


requests_strategy = st.lists(
    st.tuples(st.integers(0, 3000), st.integers(1, 90), st.integers(1, 25)), min_size=1, max_size=14
)
options_strategy = st.builds(
    SchedulerOptions,
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.integers(8, 80),
    block_size=st.sampled_from([1, 4, 16]),
    long_prefill_token_threshold=st.sampled_from([0, 0, 16]),
    reserve_full_isl=st.booleans(),
    max_in_flight=st.integers(1, 4),
    async_scheduling=st.just(False),
    engine_idle_sleep_ns=st.sampled_from([0, 500]),
    policy=st.sampled_from(
        ["vllm", "vllm", "decode-cap", "all-cap(cap=2)", "gllm(min_prefill=4)", "sglang", "sglang-dynamic"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(requests_strategy, options_strategy, st.integers(1, 4), st.integers(0, 30))
def test_what_holds_of_every_run(
    lengths: list[tuple[int, int, int]], options: SchedulerOptions, stages: int, spare_blocks: int
) -> None:
    requests = [Request(index, *numbers) for index, numbers in enumerate(lengths)]
    needed = max(-(-(r.input_tokens + r.output_tokens - 1) // options.block_size) for r in requests)
    blocks = needed + spare_blocks + 1
    cost = pipeline_cost(stages, 100, 3, hop=20)
    trace = replay(options, blocks, cost, requests)
    assert not trace.deadlock
    assert trace.free_blocks_end == blocks - 1
    for request in requests:
        entry = trace.requests[request.index]
        times = entry["token_times_ns"]
        assert len(times) == request.output_tokens
        assert times == sorted(times)
        assert request.arrival_ns <= entry["added_ns"] <= entry["first_scheduled_ns"] < times[0]
        assert entry["finish_ns"] == times[-1]
    for stage in range(stages):
        intervals = [row["stage_ns"][stage] for row in trace.iterations if row["scheduled"]]
        assert all(end <= start for (_, end), (start, _) in pairwise(intervals))
    for row in trace.iterations:
        assert sum(new for _, new, _ in row["scheduled"]) <= options.max_num_batched_tokens
        assert row["num_running"] <= options.max_num_seqs
        assert row["queue_len_before"] < options.max_in_flight
    gaps = {gap: 0 for gap, _ in trace.token_gaps}
    for gap, weight in trace.token_gaps:
        gaps[gap] += weight
    for entry in trace.requests.values():
        for earlier, later in pairwise(entry["token_times_ns"]):
            gaps[later - earlier] -= 1
    assert not any(gaps.values())


@settings(max_examples=100, deadline=None)
@given(requests_strategy, options_strategy, st.integers(0, 12))
def test_cohorts_and_the_request_by_request_path_agree(
    lengths: list[tuple[int, int, int]], options: SchedulerOptions, spare_blocks: int
) -> None:
    requests = [Request(index, *numbers) for index, numbers in enumerate(lengths)]
    needed = max(-(-(r.input_tokens + r.output_tokens - 1) // options.block_size) for r in requests)
    cost = pipeline_cost(3, 100, 3, hop=20)
    fast = replay(options, needed + spare_blocks + 1, cost, requests)
    slow = replay(options, needed + spare_blocks + 1, cost, requests, exact_only=True)
    assert slow.cohort_turns == 0
    assert fast.iterations == slow.iterations
    assert fast.requests == slow.requests


@settings(max_examples=100, deadline=None)
@given(requests_strategy, options_strategy, st.integers(1, 4), st.integers(0, 2000))
def test_a_way_to_the_engine_is_a_later_arrival_there(
    lengths: list[tuple[int, int, int]], options: SchedulerOptions, stages: int, way_in_ns: int
) -> None:
    requests = [Request(index, *numbers) for index, numbers in enumerate(lengths)]
    later = [replace(one, arrival_ns=one.arrival_ns + way_in_ns) for one in requests]

    def ends(served: Sequence[Request], way_ns: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        replica = local_replica(
            options,
            pipeline_cost(stages, 100, 3, hop=20),
            on_end=lambda _, state, at_ns: found.append((state.request.index, at_ns)),
        )
        serve_all(replica, served, way_ns)
        return found

    assert ends(requests, way_in_ns) == ends(later, 0)
    assert len(ends(requests, way_in_ns)) == len(requests)


def test_turns_reach_the_sinks_in_order_with_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.recording.turn_log.CHUNK_TURNS", 3)
    options = SchedulerOptions(max_in_flight=2)
    requests = [Request(index, 10 * index, 20, 5) for index in range(4)]
    replica, keep = serve(requests, options, pipeline_cost(2, 100))
    assert len(keep.chunks) > 1
    assert [chunk.first_turn for chunk in keep.chunks] == list(
        np.cumsum([0, *(len(chunk.values) for chunk in keep.chunks[:-1])])
    )
    assert keep.chunks[0].values.shape[1] == len(TURN_COLUMNS) + 3 * 2
    assert keep.column("schedule_ns") == sorted(keep.column("schedule_ns"))
    assert all(
        done <= update for done, update in zip(keep.column("done_ns"), keep.column("update_ns"), strict=True)
    )
    assert sum(keep.column("sampled")) == 20
    assert len(keep.column("tokens")) == replica.log.iterations + replica.log.empty_schedules
