"""The second opinion itself is held against the real scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.validate.data_parallel import validate_group
from penstock.validate.real_turns import read_real_turns
from penstock.validate.recordings import read_recordings
from penstock.validate.schedule import validate_case
from reference.data_parallel import serve
from reference.engine import replay
from reference.replayed_turns import replay_turns


@pytest.mark.parametrize(("folder", "cases"), [("vllm-0.32.0", 137), ("vllm-0.32.0-priority", 123)])
def test_the_reference_equals_every_recording(shared_dir: Path, folder: str, cases: int):
    results = [
        validate_case(recording, replay, as_recorded=True)
        for recording in read_recordings(shared_dir / "oracle" / folder)
    ]
    assert len(results) == cases
    assert [result.line for result in results if result.difference] == []


def test_the_reference_equals_every_recording_of_ranks_in_lock_step(shared_dir: Path):
    results = [
        validate_group(recording, serve)
        for recording in read_recordings(shared_dir / "oracle" / "vllm-0.32.0-dp")
    ]
    assert len(results) == 109
    assert [result.line for result in results if result.difference] == []


@pytest.mark.parametrize("name", ["dp2_pp1_busy", "dp2_pp2_light"])
def test_the_loop_of_a_rank_takes_the_turns_of_a_real_one(shared_dir: Path, name: str):
    run = read_real_turns(shared_dir / "oracle" / "vllm-0.32.0-dp" / "real-cpu" / name)
    ours = replay_turns(run)
    for recorded_turns, our_turns in zip(run.turns, ours, strict=True):
        assert len(recorded_turns) == len(our_turns)
        for recorded, did in zip(recorded_turns, our_turns, strict=True):
            assert did == recorded.did
