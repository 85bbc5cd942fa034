"""The plain CPU tier is held against the recordings of the real one."""

from __future__ import annotations

from pathlib import Path

from penstock.validate.offloading import first_difference, run_offloading
from penstock.validate.recordings import read_recordings
from reference.offloading import replay_offloading

CHECKED_EVENTS = {
    "store_no_room",
    "cpu_evicted",
    "load_admitted",
    "load_promoted",
    "recv_reported",
    "blocks_freed",
}


def test_the_reference_equals_every_recording_of_the_cpu_tier(shared_dir: Path):
    recordings = list(read_recordings(shared_dir / "oracle" / "vllm-0.32.0-offload"))
    assert len(recordings) == 82
    for recording in recordings:
        ours = run_offloading(recording, replay_offloading)
        assert first_difference(recording.data, ours) is None, recording.case
        recorded, happened = (
            [event for event in run["kv_events"] if event["kind"] in CHECKED_EVENTS]
            for run in (recording.data, ours)
        )
        assert recorded == happened, recording.case
