from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine import stretch
from penstock.engine.replica import Replica
from penstock.engine.simulation import Simulation
from penstock.recording.records import Int64Array, RunRecord, TurnChunk
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload


class Keep:
    def __init__(self) -> None:
        self.rows: list[Int64Array] = []

    def accept(self, chunk: TurnChunk) -> None:
        self.rows.append(chunk.values)


def run(
    instance: dict[str, Any], lengths: list[tuple[int, int, int]], shortest: int
) -> tuple[RunRecord, Int64Array]:
    required: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
        "tp_size": 1,
        "max_in_flight": 1,
    }
    node = {"num_instances": 1, "instances": [required | instance]}
    cluster = load_cluster({"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]})
    keep = Keep()
    workload = Workload.from_columns(*zip(*lengths, strict=True), "test")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stretch, "SHORTEST", shortest)
        record = Simulation(cluster, workload, RunOptions(), sinks=[keep]).run()
    return record, np.concatenate(keep.rows)


lengths_strategy = st.lists(
    st.tuples(st.integers(0, 4_000_000_000), st.integers(1, 900), st.integers(1, 300)), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None)
@given(
    lengths_strategy,
    st.sampled_from(
        [
            {},
            {"pp_size": 3},
            {"num_gpu_blocks": 90},
            {"block_size": 1, "max_num_seqs": 2},
            {"engine_overhead": {"schedule_ns": 70_000, "update_ns": 31_000, "ipc_to_first_stage_ns": 5_000}},
        ]
    ),
)
def test_a_jump_leaves_the_same_records_as_its_turns(
    lengths: list[tuple[int, int, int]], instance: dict[str, Any]
) -> None:
    jumped, jumped_rows = run(instance, lengths, 2)
    walked, walked_rows = run(instance, lengths, 10**9)
    assert np.array_equal(jumped_rows, walked_rows)
    assert np.array_equal(jumped.requests.values(), walked.requests.values())
    assert jumped.totals == walked.totals
    for row in range(len(walked.requests)):
        assert np.array_equal(jumped.requests.token_times_ns(row), walked.requests.token_times_ns(row))
    expanded = [np.sort(np.repeat(*record.token_gaps)) for record in (jumped, walked)]
    assert np.array_equal(*expanded)


def test_jumps_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    single = []
    turn = Replica._turn
    monkeypatch.setattr(Replica, "_turn", lambda *given: single.append(1) or turn(*given))
    record, rows = run({}, [(0, 100, 1000)], stretch.SHORTEST)
    assert len(rows) == 1001
    assert len(single) < 20
    assert record.totals[0].iterations == 1000
