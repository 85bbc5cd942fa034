"""The second opinion itself is held against the real scheduler."""

from __future__ import annotations

from pathlib import Path

from penstock.validate.recordings import read_recordings
from penstock.validate.schedule import validate_case
from reference.engine import replay


def test_the_reference_equals_every_recording(shared_dir: Path):
    results = [
        validate_case(recording, replay, as_recorded=True)
        for recording in read_recordings(shared_dir / "oracle" / "vllm-0.32.0")
    ]
    assert len(results) == 137
    assert [result.line for result in results if result.difference] == []
