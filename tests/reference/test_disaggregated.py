"""The plain pull connector is held against the recordings of the real one."""

from __future__ import annotations

from pathlib import Path

from penstock.validate.disaggregated import first_difference, run_disaggregated
from penstock.validate.recordings import read_recordings
from reference.disaggregated import replay_disaggregated


def test_the_reference_equals_every_recording_of_prefill_and_decode_apart(shared_dir: Path):
    recordings = list(read_recordings(shared_dir / "oracle" / "vllm-0.32.0-pd"))
    assert len(recordings) == 117
    for recording in recordings:
        ours = run_disaggregated(recording, replay_disaggregated)
        assert first_difference(recording.data, ours) is None, recording.case
        assert [each["kv_events"] for each in recording.data["instances"]] == [
            each["kv_events"] for each in ours["instances"]
        ]
        assert sorted(recording.data["lease_expired"]) == sorted(ours["lease_expired"])
        assert recording.data["unfinished"] == ours["unfinished"]
