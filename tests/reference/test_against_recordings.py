"""The second opinion itself is held against the real scheduler."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.validate.recordings import read_recordings
from penstock.validate.schedule import validate_case
from reference.engine import replay


@pytest.mark.parametrize(("folder", "cases"), [("vllm-0.32.0", 137), ("vllm-0.32.0-priority", 123)])
def test_the_reference_equals_every_recording(shared_dir: Path, folder: str, cases: int):
    results = [
        validate_case(recording, replay, as_recorded=True)
        for recording in read_recordings(shared_dir / "oracle" / folder)
    ]
    assert len(results) == cases
    assert [result.line for result in results if result.difference] == []
