from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from fake_records import fake_deployment, fake_record, fake_turns
from hypothesis import given
from hypothesis import strategies as st

from penstock.accounting.bubbles import BubbleLedger
from penstock.errors import UserError
from penstock.recording.records import TURN_COLUMNS, Rejection, RunRecord, TurnChunk
from penstock.rendering.result import KeepTurns, RunContext, SimulationResult

REFUSED = Rejection(1, 0, 15, 10**6, 5, "prompt too long")
CHUNK = fake_turns(
    [
        {"tokens": 100, "sampled": 1, "prefill_tokens": 100, "running": 1, "schedule_ns": 10},
        {"tokens": 0, "schedule_ns": 12},
        {"tokens": 1, "sampled": 1, "decodes": 1, "running": 1, "schedule_ns": 50, "first_arrival_ns": 20},
    ],
    [[(10, 30), (35, 50)], [], [(50, 54), (56, 60)]],
)


def record_of_two() -> RunRecord:
    return fake_record([[50, 60]], [10], rejections=(REFUSED,))


def result_of(record: str = "stages", *, bubbles: bool = False) -> SimulationResult:
    kept = KeepTurns.for_record(record)
    if kept is not None:
        kept.accept(CHUNK)
    ledger = BubbleLedger([2])
    ledger.accept(CHUNK)
    context = RunContext(inputs={"cluster": "c.json", "options": {"seed": 0}}, notices=("dtype: uses bf16",))
    return SimulationResult(record_of_two(), kept, ledger.finish(10, 60) if bubbles else None, context)


def test_requests_list_finished_and_rejected_ones():
    frame = result_of().requests
    assert frame.to_dicts() == [
        {
            "request": 0,
            "instance": 0,
            "model": "meta-llama/Llama-3.1-8B",
            "status": "finished",
            "reason": None,
            "input_tokens": 100,
            "output_tokens": 2,
            "arrival_ns": 10,
            "first_scheduled_ns": 11,
            "first_token_ns": 50,
            "finish_ns": 60,
            "latency_ns": 50,
            "queuing_ns": 1,
            "ttft_ns": 40,
            "tpot_ns": 10,
            "preemptions": 0,
            "cached_tokens": 0,
        },
        dict.fromkeys(frame.columns)
        | {
            "request": 1,
            "instance": 0,
            "model": "meta-llama/Llama-3.1-8B",
            "status": "rejected",
            "reason": "prompt too long",
            "input_tokens": 10**6,
            "output_tokens": 5,
            "arrival_ns": 15,
        },
    ]


def test_without_any_request_the_tables_are_empty_but_typed():
    result = SimulationResult(fake_record([], []), KeepTurns())
    full = result_of()
    for name in ("requests", "steps", "stages"):
        empty = getattr(result, name)
        assert len(empty) == 0
        assert empty.schema == getattr(full, name).schema


def test_steps_and_stages_leave_out_empty_steps():
    result = result_of()
    assert result.steps.select("instance", "turn", "tokens", "cause_after", "first_arrival_ns").rows() == [
        (0, 0, 100, "dependency", 10),
        (0, 2, 1, "dependency", 20),
    ]
    assert result.stages.rows() == [
        (0, 0, 0, 10, 10, 30),
        (0, 0, 1, 35, 35, 50),
        (0, 2, 0, 50, 50, 54),
        (0, 2, 1, 56, 56, 60),
    ]


def test_instances_of_different_depth_stand_in_one_table():
    kept = KeepTurns()
    kept.accept(fake_turns([{"tokens": 3}], [[(0, 5)]], instance=1))
    kept.accept(CHUNK)
    kept.accept(fake_turns([{"tokens": 4}], [[(70, 75), (75, 80)]], first_turn=3))
    record = fake_record([[50, 60]], [10], deployments=(fake_deployment(0), fake_deployment(1, (32,))))
    result = SimulationResult(record, kept)
    assert result.steps.select("instance", "turn").rows() == [(0, 0), (0, 2), (0, 3), (1, 0)]
    assert result.stages.group_by("instance").len().sort("instance").rows() == [(0, 6), (1, 1)]


def test_what_was_not_kept_is_said():
    requests = result_of("requests")
    with pytest.raises(LookupError, match="turns were not kept"):
        _ = requests.steps
    with pytest.raises(LookupError, match="stages' times were not kept"):
        _ = result_of("steps").stages
    with pytest.raises(LookupError, match="bubbles were not accounted"):
        requests.bubbles()
    with pytest.raises(LookupError, match="request 1 is not among"):
        requests.token_times_ns(1)
    assert len(result_of("steps").steps) == 2
    assert requests.token_times_ns(0).tolist() == [50, 60]


def test_saving_twice_gives_the_same_bytes_and_nothing_else(tmp_path: Path):
    extra = {"timeline": pl.DataFrame({"interval": [0, 1]})}
    for name in ("a", "b"):
        result_of(bubbles=True).save(tmp_path / name / "deep", extra)
    names = ["bubbles", "requests", "stages", "steps", "timeline"]
    files = sorted(path.name for path in (tmp_path / "a" / "deep").iterdir())
    assert files == sorted([*(f"{name}.parquet" for name in names), "summary.json"])
    for file in files:
        a, b = (tmp_path / name / "deep" / file for name in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()
    saved = json.loads((tmp_path / "a" / "deep" / "summary.json").read_text())
    assert saved["inputs"] == {"cluster": "c.json", "options": {"seed": 0}}
    assert saved["summary"]["notices"] == ["dtype: uses bf16"]
    assert saved["summary"]["instances"][0]["stages"][0]["causes_ns"]["transfer"] == 0
    frame = pl.read_parquet(tmp_path / "a" / "deep" / "bubbles.parquet")
    assert frame.select("stage", "window_ns", "busy_ns").rows() == [(0, 50, 24), (1, 50, 19)]
    assert frame.select(pl.sum_horizontal(pl.exclude("instance", "stage", "window_ns"))).rows() == [(50,)] * 2


def test_tables_of_an_earlier_run_do_not_stay_beside_new_ones(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    result_of(bubbles=True).save(tmp_path)
    result_of("requests").save(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["notes.txt", "requests.parquet", "summary.json"]


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        result_of().save(tmp_path / "file")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SimulationResult, "summary_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result_of().save(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@given(st.data())
def test_kept_turns_come_back_unchanged(data: st.DataObject):
    values = st.integers(-(2**40), 2**40) | st.integers(-200, 200)
    rows = data.draw(st.integers(0, 5))
    width = len(TURN_COLUMNS) + 6
    cells = data.draw(st.lists(values, min_size=rows * width, max_size=rows * width))
    chunk = TurnChunk(3, 2, 17, np.array(cells, dtype=np.int64).reshape(rows, width))
    kept = KeepTurns()
    kept.accept(chunk)
    (back,) = kept.turns()
    assert (back.instance, back.pp_size, back.first_turn) == (3, 2, 17)
    assert np.array_equal(back.values, chunk.values)


def test_kept_turns_are_narrow():
    turns, ns = 1000, 20_000_000
    plans = [{"tokens": 100, "running": 100, "schedule_ns": i * ns} for i in range(turns)]
    kept = KeepTurns()
    chunk = fake_turns(plans, [[(i * ns, i * ns + ns), (i * ns + ns, i * ns + 2 * ns)] for i in range(turns)])
    kept.accept(chunk)
    assert kept.nbytes < 64 * turns < chunk.values.nbytes / 2
