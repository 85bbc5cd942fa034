from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.accounting.bubbles import BubbleLedger, Bubbles
from penstock.accounting.stage_spans import StageCause, StageSpans
from penstock.cost.step_cost import HopCost, PipelineCost, StepLoad
from penstock.recording.records import TURN_COLUMNS, Cause, TurnChunk, stage_columns
from penstock.spec.options import EngineOverhead, SchedulerOptions
from penstock.workload.request import Request
from replicas import local_replica, serve_all

# --- turn logs out of thin air ----------------------------------------------------------------------------

Row = dict[str, int]
OF_TURN = {
    Cause.IDLE: StageCause.IDLE,
    Cause.DEPENDENCY: StageCause.DEPENDENCY,
    Cause.MEMORY: StageCause.MEMORY,
    Cause.ENGINE: StageCause.ENGINE,
    Cause.SEQS: StageCause.SEQS,
    Cause.KV_TRANSFER: StageCause.KV_TRANSFER,
}
INHERITED = [
    StageCause.TRANSFER,
    StageCause.BLOCKED,
    StageCause.ENGINE,
    StageCause.MEMORY,
    StageCause.SEQS,
    StageCause.KV_TRANSFER,
    StageCause.DEPENDENCY,
]


@st.composite
def turn_logs(draw: st.DrawFn, *, blocking: bool) -> tuple[int, list[Row]]:
    """Turns of a pipeline whose engine does anything at all, so long as time does not run backwards."""
    stages = draw(st.integers(1, 4))
    small = st.integers(0, 6)
    rows: list[Row] = []
    now, taken_ns = draw(small), 0
    stage_free = [0] * stages
    link_free = [0] * stages
    for _ in range(draw(st.integers(1, 8))):
        arrival = now - draw(small) if draw(st.booleans()) else now
        row = {"schedule_ns": now, "first_arrival_ns": max(arrival, 0)}
        row["cause_after"] = draw(st.sampled_from(list(Cause)))
        tokens = draw(st.integers(0, 1))
        row["tokens"] = tokens
        row["sampled"] = draw(st.integers(0, 1)) if tokens else 0
        arrive = now + draw(small) if tokens else now
        for stage in range(stages):
            if not tokens:
                row |= {f"{what}_{stage}_ns": now for what in ("arrive", "start", "end")}
                continue
            start = max(stage_free[stage], arrive)
            start += draw(small) if draw(st.integers(0, 5)) == 0 else 0
            end = start + draw(st.integers(1, 8))
            row |= {f"arrive_{stage}_ns": arrive, f"start_{stage}_ns": start, f"end_{stage}_ns": end}
            stage_free[stage] = end
            depart = max(link_free[stage], end)
            link_free[stage] = depart + draw(small)
            arrive = depart + draw(small)
            if blocking and stage < stages - 1:
                stage_free[stage] = arrive
        row["done_ns"] = (stage_free[-1] if tokens else max(now, stage_free[-1])) + draw(st.integers(0, 2))
        taken_ns = max(taken_ns, row["done_ns"]) + draw(st.integers(0, 2))
        row["update_ns"] = taken_ns
        rows.append(row)
        now += draw(st.integers(0, 12))
    return stages, rows


def chunks_of(stages: int, rows: list[Row], sizes: Sequence[int] | None = None) -> list[TurnChunk]:
    names = [*TURN_COLUMNS, *stage_columns(stages)]
    values = np.array([[row.get(name, 0) for name in names] for row in rows], dtype=np.int64)
    cuts = [0, *np.cumsum(sizes or [len(rows)]).tolist()]
    return [
        TurnChunk(0, stages, begin, values[begin:end]) for begin, end in pairwise(cuts) if begin < len(rows)
    ]


# --- the rules, nanosecond by nanosecond --------------------------------------------------------------------


def cause_by_turns(rows: list[Row], at: int) -> StageCause:
    """Before the latest turn: what held at a nanosecond, from the docstring of ``bubbles.py``."""
    before = [k for k, row in enumerate(rows) if row["schedule_ns"] <= at]
    if not before:
        return StageCause.IDLE if at < rows[0]["first_arrival_ns"] else StageCause.ENGINE
    k = before[-1]
    after = rows[k + 1]
    not_taken = [row for row in rows[: k + 1] if row["sampled"] and row["update_ns"] > rows[k]["schedule_ns"]]
    back = min((row["done_ns"] for row in not_taken), default=10**9)
    cause = OF_TURN[Cause(rows[k]["cause_after"])]
    may_change = cause in (StageCause.IDLE, StageCause.DEPENDENCY, StageCause.KV_TRANSFER)
    arrived = max(after["first_arrival_ns"], rows[k]["schedule_ns"]) if may_change else 10**9
    if at < min(back, arrived):
        return cause
    if back <= arrived and after["cause_after"] == Cause.IDLE and not after["tokens"]:
        return StageCause.IDLE
    return StageCause.ENGINE


def label_gap(
    rows: list[Row],
    step: int,
    stage: int,
    stages: int,
    passed_down: dict[StageCause, int],
    *,
    blocking: bool,
    begin: int,
) -> list[StageCause]:
    """The cause of each nanosecond of the gap of a stage before a step."""
    m = rows[step]
    earlier = [k for k in range(step) if rows[k]["tokens"]]
    p = rows[earlier[-1]] if earlier else None
    between = rows[earlier[-1] + 1 : step] if earlier else []
    ran_empty = p is None or any(row["cause_after"] == Cause.IDLE for row in between)
    free = p[f"end_{stage}_ns"] if p else begin
    entered = m["arrive_0_ns"]
    upstream_end = m[f"end_{stage - 1}_ns"] if stage else entered
    arrived = m[f"arrive_{stage}_ns"]
    labels: list[StageCause | None] = []
    for at in range(free, m[f"start_{stage}_ns"]):
        if p and blocking and stage < stages - 1 and at < p[f"arrive_{stage + 1}_ns"]:
            labels.append(StageCause.BLOCKED)
        elif p and ran_empty and at < p["update_ns"]:
            labels.append(StageCause.DRAIN)
        elif at < m["schedule_ns"]:
            labels.append(cause_by_turns(rows, at))
        elif at < entered:
            labels.append(StageCause.ENGINE)
        elif at < upstream_end:
            labels.append(None)
        else:
            labels.append(StageCause.TRANSFER if at < arrived else StageCause.DEPENDENCY)
    waits = [place for place, label in enumerate(labels) if label is None]
    if ran_empty and (p is None or p[f"end_{stages - 1}_ns"] <= m["schedule_ns"]):
        reasons = [StageCause.FILL] * len(waits)
    elif p and p[f"end_{stages - 1}_ns"] <= m["schedule_ns"]:
        ran_dry_ns = max(p[f"end_{stages - 1}_ns"] - 1, p["schedule_ns"])
        reasons = [cause_by_turns(rows, ran_dry_ns)] * len(waits)
    else:
        up_to_entry = labels[: waits[0]] if waits else labels
        reasons = []
        for cause in INHERITED:
            rest = max(passed_down.get(cause, 0) - up_to_entry.count(cause), 0)
            reasons += [cause] * rest
        reasons = (reasons + [StageCause.IMBALANCE] * len(waits))[: len(waits)]
    result = [label for label in labels if label is not None] + reasons
    passed_down.clear()
    passed_down.update({cause: result.count(cause) for cause in StageCause})
    return result


def reference(
    stages: int, rows: list[Row], start: int, end: int, *, blocking: bool
) -> list[dict[StageCause, int]]:
    table = [dict.fromkeys(StageCause, 0) for _ in range(stages)]
    begin = min(rows[0]["first_arrival_ns"], rows[0]["schedule_ns"])
    steps = [k for k, row in enumerate(rows) if row["tokens"]]
    for k in steps:
        passed_down: dict[StageCause, int] = {}
        for stage in range(stages):
            labels = label_gap(rows, k, stage, stages, passed_down, blocking=blocking, begin=begin)
            for cause in labels:
                table[stage][cause] += 1
            table[stage][StageCause.BUSY] += rows[k][f"end_{stage}_ns"] - rows[k][f"start_{stage}_ns"]
    for stage in range(stages):
        if not steps:
            table[stage][StageCause.IDLE] = end - start
            continue
        last = rows[steps[-1]]
        table[stage][StageCause.IDLE] += begin - start
        for at in range(last[f"end_{stage}_ns"], end):
            if blocking and stage < stages - 1 and at < last[f"arrive_{stage + 1}_ns"]:
                table[stage][StageCause.BLOCKED] += 1
            else:
                cause = StageCause.DRAIN if at < last["update_ns"] else StageCause.IDLE
                table[stage][cause] += 1
    return table


def ledger_of(chunks: list[TurnChunk], stages: int, window: tuple[int, int], *, blocking: bool) -> Bubbles:
    ledger = BubbleLedger([stages], blocking_sends=[blocking])
    for chunk in chunks:
        ledger.accept(chunk)
    return ledger.finish(*window)


@pytest.mark.parametrize("blocking", [False, True])
@settings(max_examples=150)
@given(data=st.data())
def test_every_nanosecond_has_the_cause_that_the_rules_give(data: st.DataObject, blocking: bool) -> None:
    stages, rows = data.draw(turn_logs(blocking=blocking))
    start = data.draw(st.integers(0, min(rows[0]["first_arrival_ns"], rows[0]["schedule_ns"])))
    ends = [row[name] for row in rows for name in row if name.endswith("_ns")]
    end = max(ends) + data.draw(st.integers(0, 3))
    bubbles = ledger_of(chunks_of(stages, rows), stages, (start, end), blocking=blocking)
    expected = reference(stages, rows, start, end, blocking=blocking)
    assert bubbles.ns[0].tolist() == [[row[cause] for cause in StageCause] for row in expected]
    assert bubbles.ns[0].sum(axis=1).tolist() == [end - start] * stages


class Cover:
    """A sink of spans that marks every nanosecond it is told about."""

    def __init__(self, stages: int, end: int) -> None:
        self.seen = np.zeros((stages, end), dtype=np.int64)

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        assert instance == 0
        for stage, of_stage in enumerate(spans):
            for begin, end in zip(of_stage.begin_ns, of_stage.end_ns, strict=True):
                assert begin < end
                self.seen[stage, begin:end] += 1


@settings(max_examples=100)
@given(data=st.data())
def test_how_the_turns_are_cut_into_chunks_changes_nothing(data: st.DataObject) -> None:
    stages, rows = data.draw(turn_logs(blocking=False))
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=len(rows), max_size=len(rows)))
    last_schedule = max(row["schedule_ns"] for row in rows)
    latest = max(row[name] for row in rows for name in row if name.endswith("_ns"))
    end = data.draw(st.integers(last_schedule, latest))  # steps may go on after the window's end
    cover = Cover(stages, end)
    ledger = BubbleLedger([stages], sinks=[cover])
    for chunk in chunks_of(stages, rows, sizes):
        ledger.accept(chunk)
    cut = ledger.finish(0, end)
    whole = ledger_of(chunks_of(stages, rows), stages, (0, end), blocking=False)
    assert cut.ns[0].tolist() == whole.ns[0].tolist()
    assert cut.ns[0].sum(axis=1).tolist() == [end] * stages
    assert (cover.seen == 1).all()


def test_an_instance_without_turns_is_idle() -> None:
    bubbles = BubbleLedger([2, 1]).finish(10, 25)
    assert [row["idle_ns"] for row in bubbles.rows()] == [15, 15, 15]
    assert bubbles.bubble_share() == 0.0


def test_a_window_that_does_not_cover_the_work_is_refused() -> None:
    row = {
        "schedule_ns": 5,
        "first_arrival_ns": 5,
        "tokens": 1,
        "arrive_0_ns": 5,
        "start_0_ns": 5,
        "end_0_ns": 9,
    }
    ledger = BubbleLedger([1])
    ledger.accept(chunks_of(1, [row])[0])
    with pytest.raises(ValueError, match="does not cover"):
        ledger.finish(6, 20)


# --- the engine's own runs ---------------------------------------------------------------------------------


class StageTimes:
    """Fixed time per stage and step."""

    def __init__(self, times: Sequence[int]) -> None:
        self.times = times

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        return self.times

    def notes(self) -> tuple[str, ...]:
        return ()


def serve(
    requests: Sequence[Request],
    times: Sequence[int],
    *,
    hop: tuple[int, int] = (0, 0),
    blocks: int = 10_000,
    blocking: bool = False,
    overhead: EngineOverhead | None = None,
    **options: int,
) -> Bubbles:
    """Serve on a pipeline whose stages take ``times`` for any step, ``hop`` = (arrival, occupancy)."""
    stages = len(times)
    chosen = SchedulerOptions(**{"max_in_flight": stages, "engine_idle_sleep_ns": 0} | options)
    hops = (HopCost([hop[0]] * 5000, [hop[1]] * 5000),) * (stages - 1)
    cost = PipelineCost(StageTimes(times), hops, [0] * 5000)
    ledger = BubbleLedger([stages], blocking_sends=[blocking])
    finishes: list[int] = []
    replica = local_replica(
        chosen,
        cost,
        blocks=blocks,
        blocking_sends=blocking,
        overhead=overhead,
        sinks=[ledger],
        on_end=lambda _replica, _state, at_ns: finishes.append(at_ns),
    )
    serve_all(replica, requests)
    assert len(finishes) == len(requests)
    bubbles = ledger.finish(requests[0].arrival_ns, max(finishes))
    assert bubbles.ns[0].sum(axis=1).tolist() == [bubbles.window_ns] * stages
    return bubbles


def shares(bubbles: Bubbles, stage: int) -> dict[str, int]:
    names = [cause.name.lower() for cause in StageCause]
    return {name: int(ns) for name, ns in zip(names, bubbles.ns[0][stage], strict=True) if ns}


@pytest.mark.parametrize("stages", range(1, 9))
@pytest.mark.parametrize("batches", [1, 3, 8])
def test_the_textbook_pipeline(stages: int, batches: int) -> None:
    requests = [Request(index, 0, 100, 1) for index in range(batches)]
    options = {"max_num_batched_tokens": 100, "max_in_flight": batches + 1}
    bubbles = serve(requests, [7] * stages, **options)
    for stage in range(stages):
        expected = {"fill": 7 * stage, "drain": 7 * (stages - 1 - stage), "busy": 7 * batches}
        assert shares(bubbles, stage) == {name: ns for name, ns in expected.items() if ns}
    assert bubbles.bubble_share() == pytest.approx((stages - 1) / (batches + stages - 1), rel=1e-12)


def test_one_request_on_four_stages_waits_for_its_own_tokens() -> None:
    bubbles = serve([Request(0, 0, 10, 400)], [10] * 4, hop=(0, 0))
    for stage in range(4):
        of_stage = shares(bubbles, stage)
        assert of_stage["busy"] / bubbles.window_ns == 0.25
        assert of_stage["dependency"] == 10 * 3 * 399
        assert of_stage.get("fill", 0) == 10 * stage


def test_two_requests_on_four_stages_wait_for_their_own_tokens() -> None:
    bubbles = serve([Request(0, 0, 10, 400), Request(1, 0, 10, 400)], [10] * 4, max_num_batched_tokens=10)
    for stage in range(4):
        of_stage = shares(bubbles, stage)
        assert "imbalance" not in of_stage
        assert of_stage["dependency"] / bubbles.window_ns == pytest.approx(0.5, abs=0.01)


def test_a_slow_third_stage_shows_imbalance_after_it() -> None:
    requests = [Request(index, 0, 100, 1) for index in range(50)]
    bubbles = serve(requests, [10, 10, 20, 10], max_num_batched_tokens=100)
    assert shares(bubbles, 3)["imbalance"] == 10 * 49
    for stage in range(3):
        assert "imbalance" not in shares(bubbles, stage)


def test_a_taken_link_shows_transfer() -> None:
    requests = [Request(index, 0, 100, 1) for index in range(50)]
    bubbles = serve(requests, [10] * 4, hop=(50, 50), max_num_batched_tokens=100)
    for stage in range(1, 4):
        of_stage = shares(bubbles, stage)
        assert of_stage["transfer"] == max(ns for name, ns in of_stage.items() if name != "busy")
        assert "imbalance" not in of_stage


def test_blocking_sends_show_blocked_before_and_transfer_after_the_link() -> None:
    requests = [Request(index, 0, 100, 1) for index in range(50)]
    bubbles = serve(requests, [10] * 2, hop=(15, 15), blocking=True, max_num_batched_tokens=100)
    assert shares(bubbles, 0)["blocked"] == 15 * 50
    assert shares(bubbles, 1)["transfer"] > 40 * 10


def test_a_tiny_kv_pool_shows_memory() -> None:
    requests = [Request(index, 0, 160, 40) for index in range(40)]
    bubbles = serve(requests, [10] * 4, blocks=1 + 2 * 13)
    bubble_causes = [cause for cause in StageCause if cause not in (StageCause.BUSY, StageCause.IDLE)]
    assert max(bubble_causes, key=bubbles.total_ns) is StageCause.MEMORY
    assert bubbles.total_ns(StageCause.SEQS) == 0


def test_few_places_with_blocks_to_spare_show_seqs() -> None:
    requests = [Request(index, 0, 160, 40) for index in range(40)]
    bubbles = serve(requests, [10] * 4, max_num_seqs=2)
    bubble_causes = [cause for cause in StageCause if cause not in (StageCause.BUSY, StageCause.IDLE)]
    assert max(bubble_causes, key=bubbles.total_ns) is StageCause.SEQS
    assert bubbles.total_ns(StageCause.MEMORY) == 0


def test_an_engine_that_takes_its_time_shows_engine() -> None:
    overhead = EngineOverhead(schedule_ns=30, update_ns=20)
    bubbles = serve([Request(0, 0, 10, 100)], [10], overhead=overhead)
    assert shares(bubbles, 0) == {"busy": 1000, "engine": 30 * 100 + 20 * 99}


def test_nothing_to_do_is_idle_and_no_bubble() -> None:
    requests = [Request(0, 100, 10, 1), Request(1, 1000, 10, 1)]
    bubbles = serve(requests, [10, 10])
    assert shares(bubbles, 0) == {"busy": 20, "drain": 20, "idle": 880}
    assert shares(bubbles, 1) == {"busy": 20, "fill": 20, "idle": 880}
    assert bubbles.bubble_share() == 0.5


@settings(max_examples=60)
@given(data=st.data())
def test_busy_and_causes_are_the_window_in_any_run(data: st.DataObject) -> None:
    draw = data.draw
    stages = draw(st.integers(1, 4))
    arrivals = sorted(draw(st.lists(st.integers(0, 3000), min_size=1, max_size=12)))
    sizes = st.tuples(st.integers(1, 90), st.integers(1, 12))
    requests = [Request(index, at, *draw(sizes)) for index, at in enumerate(arrivals)]
    ahead = draw(st.booleans())
    bubbles = serve(
        requests,
        draw(st.lists(st.integers(1, 40), min_size=stages, max_size=stages)),
        hop=(draw(st.integers(0, 30)), draw(st.integers(0, 30))),
        blocks=draw(st.integers(10, 40)),
        blocking=draw(st.booleans()),
        overhead=EngineOverhead(schedule_ns=draw(st.integers(0, 9)), update_ns=draw(st.integers(0, 9))),
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(8, 128)),
        max_in_flight=stages + ahead,
        async_scheduling=ahead,
        v2_model_runner=ahead and stages > 1,
        engine_idle_sleep_ns=draw(st.sampled_from([0, 25])),
    )
    assert (bubbles.ns[0] >= 0).all()
