"""``penstock validate schedule`` on recordings of data-parallel ranks, and on real ranks' turns."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.cli.validate import app
from penstock.validate.data_parallel import penstock_group, validate_group
from penstock.validate.recordings import Recording, read_recordings
from penstock.validate.turns import validate_turns

LATENCIES = {
    "client_engine": 10,
    "engine_client": 0,
    "client_coord": 20,
    "coord_client": 0,
    "engine_coord": 0,
    "coord_engine": 30,
}


def recorded(**changes: Any) -> dict[str, Any]:
    """One request of 3 + 1 tokens on rank 0 of two, a stage of 100 ns + 10 ns per token of the larger rank.

    It comes at 5 and is there at 15; START_DP_WAVE is at the coordinator at 25, at the ranks at 55. So rank 1's
    dummy begins at 55, and so does the forward, which takes 100 + 3 * 10 ns. Both find nothing unfinished at step 1,
    and the wave is over. Rank 0 then tells its workers of the end in an empty step.
    """
    wave_0 = {"step_counter": 0, "wave": 0, "fwd": 0}
    return {
        "case": "tiny",
        "config": {
            "pp_size": 1,
            "max_num_seqs": 4,
            "max_num_batched_tokens": 8,
            "block_size": 4,
            "num_gpu_blocks": 4,
            "stages": [{"a": 100, "b": 10, "c": 0}],
            "engine_idle_sleep_ns": 0,
            "dp_size": 2,
            "dp_sync_interval": 16,
            "prefill_schedule_interval": 1,
            "lb": "external",
            "client_count": 1,
            "hybrid_nodes": 1,
            "stats_interval_ms": 100,
            "sync_ns": 0,
            "latency": LATENCIES,
        },
        "num_iterations": 1,
        "num_forwards": 1,
        "num_dummies": 1,
        "num_empty_schedules": [1, 0],
        "num_idle_sleeps": [0, 0],
        "end_ns": 185,
        "free_blocks_end": [3, 3],
        "final_wave": [1, 1],
        "unfinished": [],
        "requests": [
            {"req_id": "a", "arrival_time_ns": 5, "input_toks": 3, "output_toks": 1, "dp_rank": 0},
        ],
        "iterations": [
            {
                **wave_0,
                "rank": 0,
                "iter": 0,
                "t_schedule_ns": 15,
                "t_done_ns": 185,
                "t_update_ns": 185,
                "scheduled": [["a", 3, 0]],
                "preempted": [],
                "free_blocks_before": 3,
                "free_blocks_after": 2,
                "num_running": 1,
                "num_waiting": 0,
                "queue_len_before": 0,
                "empty_schedules_before": 0,
                "stage_ns": [[55, 185]],
            }
        ],
        "dummies": [{**wave_0, "rank": 1, "t_submit_ns": 55, "t_done_ns": 185, "t_return_ns": 185}],
        "forwards": [
            {
                "fwd": 0,
                "n": [3, 1],
                "kv": [0, 0],
                "dummy": [1],
                "t_submit_ns": [15, 55],
                "stage_ns": [[55, 185]],
                "t_done_ns": [185, 185],
            }
        ],
        "syncs": [
            {
                "t_ns": 185,
                "wave": 0,
                "step_counter": 1,
                "unfinished": [False, False],
                "t_enter_ns": [185, 185],
            }
        ],
        "routing": [
            {"req_id": "a", "t_ns": 5, "client": 0, "rank": 0, "wave": 0, "engines_running": False},
        ],
        "publishes": [[185, None, 1, False]],
        "start_waves": [[25, 0, "rank0-as-bytes"]],
        "engine_messages": [[185, 0, "wave_complete", 0]],
        "per_request": [
            {
                "req_id": "a",
                "rank": 0,
                "added_ns": 15,
                "first_scheduled_ns": 15,
                "first_token_ns": 185,
                "finish_ns": 185,
                "token_times_ns": [185],
                "num_preemptions": 0,
                "cached_tokens": 0,
                "resumes": [],
                "num_prefill_chunks": 1,
                "finish_reason": "length",
            }
        ],
        **changes,
    }


def difference(data: dict[str, Any]) -> str | None:
    return validate_group(Recording("by hand", data), penstock_group()).difference


def test_a_wave_of_one_forward_by_hand():
    assert difference(recorded()) is None


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("forwards", "t_submit_ns", [15, 54]),
        ("dummies", "t_return_ns", 186),
        ("syncs", "unfinished", [True, False]),
        ("routing", "rank", 1),
        ("per_request", "token_times_ns", [184]),
        ("iterations", "stage_ns", [[54, 184]]),
    ],
)
def test_any_other_value_is_a_difference(name: str, field: str, value: Any):
    data = copy.deepcopy(recorded())
    data[name][0][field] = value
    found = difference(data)
    assert found is not None
    assert name in found
    assert field in found


def test_the_command_writes_what_we_did_in_the_schema_of_the_recording(tmp_path: Path):
    data = recorded()
    (tmp_path / "tiny.json").write_text(json.dumps(data))
    result = CliRunner().invoke(app, ["schedule", str(tmp_path), "--dump", str(tmp_path / "dump.jsonl")])
    assert result.exit_code == 0
    assert "1 of 1 equal" in result.output
    dumped = json.loads((tmp_path / "dump.jsonl").read_text())
    assert dumped == {name: value for name, value in data.items() if name not in ("config", "requests")}


def test_every_recording_of_ranks_in_lock_step_is_equal(shared_dir: Path):
    results = [
        validate_group(recording, penstock_group())
        for recording in read_recordings(shared_dir / "oracle" / "vllm-0.32.0-dp")
    ]
    assert len(results) == 109
    assert [result.line for result in results if result.difference] == []


@pytest.mark.parametrize(("name", "turns"), [("dp2_pp1_busy", 384), ("dp2_pp2_light", 1218)])
def test_ranks_take_the_turns_of_real_ones(shared_dir: Path, name: str, turns: int):
    result = validate_turns(shared_dir / "oracle" / "vllm-0.32.0-dp" / "real-cpu" / name)
    assert result.line == f"{name}: equal ({turns} turns in order)"
