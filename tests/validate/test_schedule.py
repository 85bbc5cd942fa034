"""``penstock validate schedule``: what it reads, what it says, how it exits."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli.validate import app
from penstock.errors import UserError
from penstock.validate.recordings import Recording, read_recordings
from penstock.validate.schedule import penstock_engine, validate_case

ENGINE = penstock_engine()


def tiny(**config: Any) -> dict[str, Any]:
    """One request of 3 + 2 tokens on two stages of 100 ns + 10 ns a token, hop 5 ns; expectations by hand."""
    recorded_config = {
        "pp_size": 2,
        "max_num_seqs": 4,
        "max_num_batched_tokens": 8,
        "block_size": 4,
        "num_gpu_blocks": 4,
        "stages": [{"a": 100, "b": 10, "c": 0}] * 2,
        "hop": {"d": 5, "e": 0},
        **config,
    }
    common = {"preempted": [], "num_running": 1, "num_waiting": 0, "queue_len_before": 0}
    return {
        "case": "tiny",
        "config": recorded_config,
        "batch_queue_size": 2,
        "num_empty_schedules": 3,
        "num_idle_sleeps": 2,
        "num_engine_turns": 6,
        "end_ns": 502,
        "free_blocks_end": 3,
        "deadlock": False,
        "unfinished": [],
        "requests": [{"req_id": "a", "arrival_time_ns": 7, "input_toks": 3, "output_toks": 2}],
        "iterations": [
            {
                **common,
                "iter": 0,
                "t_schedule_ns": 7,
                "t_done_ns": 272,
                "t_update_ns": 272,
                "scheduled": [["a", 3, 0]],
                "free_blocks_before": 3,
                "free_blocks_after": 2,
                "empty_schedules_before": 0,
                "stage_ns": [[7, 137], [142, 272]],
            },
            {
                **common,
                "iter": 1,
                "t_schedule_ns": 272,
                "t_done_ns": 497,
                "t_update_ns": 497,
                "scheduled": [["a", 1, 3]],
                "free_blocks_before": 2,
                "free_blocks_after": 2,
                "queue_len_before": 1,
                "empty_schedules_before": 1,
                "stage_ns": [[272, 382], [387, 497]],
            },
        ],
        "per_request": [
            {
                "req_id": "a",
                "added_ns": 7,
                "first_scheduled_ns": 7,
                "first_token_ns": 272,
                "finish_ns": 497,
                "token_times_ns": [272, 497],
                "num_preemptions": 0,
                "cached_tokens": 0,
                "resumes": [],
                "num_prefill_chunks": 1,
                "finish_reason": "length",
            }
        ],
    }


def difference(data: dict[str, Any]) -> str | None:
    return validate_case(Recording("tiny.json", data), ENGINE, as_recorded=False).difference


def test_a_case_computed_by_hand_is_equal():
    data = tiny()
    for counter in ("num_empty_schedules", "num_idle_sleeps", "num_engine_turns", "end_ns"):
        del data[counter]
    assert difference(data) is None


@pytest.mark.parametrize(
    "name",
    [
        "t_schedule_ns",
        "t_done_ns",
        "t_update_ns",
        "scheduled",
        "preempted",
        "free_blocks_before",
        "free_blocks_after",
        "num_running",
        "num_waiting",
        "queue_len_before",
        "empty_schedules_before",
        "stage_ns",
    ],
)
def test_every_field_of_an_iteration_is_compared(name: str):
    data = tiny()
    value = data["iterations"][1][name]
    data["iterations"][1][name] = value + 1 if isinstance(value, int) else [*value, ["a", 1, 1]]
    found = difference(data)
    assert found is not None
    assert found.startswith(
        f"at iteration 1 (t={data['iterations'][1]['t_schedule_ns']} ns): {name}: recorded"
    )


@pytest.mark.parametrize(
    "name",
    [
        "added_ns",
        "first_scheduled_ns",
        "first_token_ns",
        "finish_ns",
        "token_times_ns",
        "num_preemptions",
        "cached_tokens",
        "resumes",
        "num_prefill_chunks",
        "finish_reason",
    ],
)
def test_every_field_of_a_request_is_compared(name: str):
    data = tiny()
    data["per_request"][0][name] = "something else"
    found = difference(data)
    assert found is not None
    assert found.startswith(f"in request a: {name}: recorded something else, ours")


def test_a_missing_iteration_and_a_missing_request_are_found():
    shorter = tiny()
    shorter["iterations"].pop()
    assert "recorded 1, ours 2" in str(difference(shorter))
    other = tiny()
    other["per_request"][0]["req_id"] = "b"
    assert difference(other) == "request b is missing"


def test_a_total_is_compared():
    data = tiny()
    data["free_blocks_end"] = 2
    del data["end_ns"]
    for counter in ("num_empty_schedules", "num_idle_sleeps", "num_engine_turns"):
        del data[counter]
    assert difference(data) == "in total: free_blocks_end: recorded 2, ours 3"


def test_all_recordings_are_equal_on_both_paths(shared_dir: Path):
    recordings = list(read_recordings(shared_dir / "oracle" / "vllm-0.32.0"))
    assert len(recordings) == 137
    for engine in (ENGINE, penstock_engine(exact_only=True)):
        results = [validate_case(recording, engine, as_recorded=True) for recording in recordings]
        assert [result.line for result in results if result.difference] == []


def test_an_oversized_prompt_is_refused_unless_run_as_recorded(shared_dir: Path):
    file = shared_dir / "oracle" / "vllm-0.32.0" / "s25_pp1_prompt_gt_pool.json.gz"
    (recording,) = read_recordings(file)
    refused = validate_case(recording, ENGINE, as_recorded=False)
    assert [name for name, _ in refused.trace.rejected] == ["r005"]
    assert "equal as recorded; by default refuses up front r005" in refused.line
    assert refused.trace.unfinished == []
    recorded = validate_case(recording, ENGINE, as_recorded=True)
    assert recorded.trace.deadlock
    assert "deadlock as recorded (r005, r006" in recorded.line


def test_every_file_kind_of_a_directory_is_read_in_order(tmp_path: Path):
    text = json.dumps(tiny())
    (tmp_path / "b.json").write_text(text)
    with gzip.open(tmp_path / "a.json.gz", "wt") as packed:
        packed.write(text)
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as packed:
        packed.write(f"{text}\n\n{text}\n")
    (tmp_path / "notes.txt").write_text("no recording")
    (tmp_path / "index.json").write_text("{}")
    sources = [Path(recording.source).name for recording in read_recordings(tmp_path)]
    assert sources == ["a.json.gz", "b.json", "c.jsonl.gz:1", "c.jsonl.gz:3"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "broken JSON"), ("[]", "not a JSON object"), ('{"config": {}}', "missing requests, iterations")],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: str, message: str):
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_recordings(file))


def test_the_command_reports_dumps_and_exits(tmp_path: Path):
    good, bad = tiny(), copy.deepcopy(tiny())
    for data in (good, bad):
        for counter in ("num_empty_schedules", "num_idle_sleeps", "num_engine_turns", "end_ns"):
            del data[counter]
    bad["case"] = "wrong"
    bad["iterations"][0]["num_running"] = 3
    (tmp_path / "1.json").write_text(json.dumps(good))
    (tmp_path / "2.json").write_text(json.dumps(bad))
    dump = tmp_path / "out" / "dump.jsonl"
    result = CliRunner().invoke(app, ["schedule", str(tmp_path), "--dump", str(dump)])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "tiny: equal (2 iterations, 1 requests)"
    assert lines[1].startswith("wrong: DIFFERENT at iteration 0 (t=7 ns): num_running: recorded 3, ours 1")
    assert lines[2] == "1 of 2 equal"
    dumped = [json.loads(line) for line in dump.read_text().splitlines()]
    assert [entry["case"] for entry in dumped] == ["tiny", "wrong"]
    assert dumped[0]["iterations"] == good["iterations"]
    assert dumped[0]["per_request"] == good["per_request"]
    only_good = CliRunner().invoke(app, ["schedule", str(tmp_path / "1.json")])
    assert only_good.exit_code == 0
