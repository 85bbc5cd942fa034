"""Turns taken in runs leave the same records as the same turns one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.decode_runs import AsyncDecodeRuns, DecodeRuns
from penstock.engine.replica import Replica
from penstock.engine.simulation import Simulation
from penstock.recording.records import Int64Array, RunRecord, TurnChunk
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload


class Keep:
    def __init__(self) -> None:
        self.rows: list[Int64Array] = []

    def accept(self, chunk: TurnChunk) -> None:
        self.rows.append(chunk.values)


def run(
    instance: dict[str, Any], lengths: list[tuple[int, int, int]], *, in_runs: bool
) -> tuple[RunRecord, Int64Array]:
    required: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
        "tp_size": 1,
    }
    node = {"num_instances": 1, "instances": [required | instance]}
    cluster = load_cluster({"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]})
    keep = Keep()
    workload = Workload.from_columns(*zip(*lengths, strict=True), "test")
    with pytest.MonkeyPatch.context() as patch:
        if not in_runs:
            for each in (DecodeRuns, AsyncDecodeRuns):
                patch.setattr(each, "take_turns", lambda self, replica, limit_ns: False)
        record = Simulation(cluster, workload, RunOptions(), sinks=[keep]).run()
    return record, np.concatenate(keep.rows)


LENGTHS = st.lists(
    st.tuples(st.integers(0, 4_000_000_000), st.integers(1, 900), st.integers(1, 300)), min_size=1, max_size=8
)
MODES: list[dict[str, Any]] = [{}, {"async_scheduling": True}]
INSTANCES: list[dict[str, Any]] = [
    {},
    {"pp_size": 2},
    {"pp_size": 4, "max_num_seqs": 3},
    {"pp_size": 3, "num_gpu_blocks": 90},
    {"block_size": 1, "max_num_seqs": 2},
    {"pp_size": 2, "max_num_batched_tokens": 512, "max_num_seqs": 2},
    {
        "pp_size": 4,
        "engine_overhead": {"schedule_ns": 70_000, "update_ns": 31_000, "ipc_to_first_stage_ns": 5_000},
    },
]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.sampled_from(INSTANCES), st.sampled_from(MODES))
def test_a_run_leaves_the_same_records_as_its_turns(
    lengths: list[tuple[int, int, int]], instance: dict[str, Any], mode: dict[str, Any]
) -> None:
    ran, ran_rows = run(instance | mode, lengths, in_runs=True)
    walked, walked_rows = run(instance | mode, lengths, in_runs=False)
    assert np.array_equal(ran_rows, walked_rows)
    assert np.array_equal(ran.requests.values(), walked.requests.values())
    assert ran.totals == walked.totals
    for row in range(len(walked.requests)):
        assert np.array_equal(ran.requests.token_times_ns(row), walked.requests.token_times_ns(row))
    expanded = [np.sort(np.repeat(*record.token_gaps)) for record in (ran, walked)]
    assert np.array_equal(*expanded)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pp_size", [1, 4])
def test_most_turns_are_in_runs(mode: dict[str, Any], pp_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduled: list[int] = []
    schedule = VllmScheduler.schedule
    monkeypatch.setattr(
        VllmScheduler, "schedule", lambda self, now: (scheduled.append(now), schedule(self, now))[1]
    )
    lengths = [(0, 100, 200 + 11 * index) for index in range(16)]
    _, rows = run({"pp_size": pp_size, "max_num_batched_tokens": 400} | mode, lengths, in_runs=True)
    assert len(scheduled) < len(rows) / 2


KINDS = ("pull", "push", "tier")


def beside(kind: str, instance: dict[str, Any], lengths: list[tuple[int, int, int]]) -> int:
    """Runs beside a KV connector leave what single turns leave; returns the turns that were taken in runs."""
    one: dict[str, Any] = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
        "tp_size": 1,
        **instance,
    }
    instances = [one | {"pd_type": "prefill"}, one | {"pd_type": "decode"}]
    if kind == "tier":
        instances = [one | {"kv_offloading": {"cpu_gb": 8, "d2h_gb_per_s": 20, "h2d_gb_per_s": 20}}]
    node = {"num_instances": len(instances), "instances": instances}
    config: dict[str, Any] = {"num_nodes": 1, "link_bw": 16, "link_latency": 20000, "nodes": [node]}
    if kind != "tier":
        config["kv_transfer"] = {"kind": kind}
    workload = Workload.from_columns(*zip(*lengths, strict=True), "test")
    found: list[tuple[RunRecord, Int64Array]] = []
    taken: list[int] = []
    plain = Replica.go_on_after

    def count(self: Replica, turns: int, now_ns: int, cells: list[int], updates: list[int]) -> None:
        taken.append(turns)
        plain(self, turns, now_ns, cells, updates)

    for in_runs in (True, False):
        keep = Keep()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PENSTOCK_PURE", "1")
            patch.setattr(Replica, "go_on_after", count)
            if not in_runs:
                patch.setattr(DecodeRuns, "take_turns", lambda self, replica, limit_ns: False)
            record = Simulation(load_cluster(config), workload, RunOptions(), sinks=[keep]).run()
        found.append((record, np.concatenate(keep.rows)))
    (runs, rows), (singly, other) = found
    assert np.array_equal(rows, other)
    assert runs.transfers == singly.transfers
    assert np.array_equal(runs.requests.values(), singly.requests.values())
    return sum(taken)


@pytest.mark.parametrize("kind", KINDS)
def test_so_do_they_beside_a_connector(kind: str) -> None:
    lengths = [(40_000_000 * i, 100 + 37 * i % 700, 30 + 11 * i % 90) for i in range(24)]
    assert beside(kind, {"pp_size": 2, "max_num_seqs": 4}, lengths) > 20


@settings(max_examples=25, deadline=None)
@given(LENGTHS, st.sampled_from(KINDS), st.sampled_from(INSTANCES))
def test_beside_a_connector_too_a_run_leaves_the_same_records(
    lengths: list[tuple[int, int, int]], kind: str, instance: dict[str, Any]
) -> None:
    beside(kind, instance, lengths)
