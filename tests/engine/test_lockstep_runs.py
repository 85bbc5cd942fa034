"""Forwards of ranks in lock-step taken in runs leave the same records as the same forwards one by one."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.engine.lockstep_runs import LockstepRuns
from penstock.engine.simulation import Simulation
from penstock.recording.records import Int64Array, RunRecord, TurnChunk
from penstock.spec.cluster import ClusterSpec
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload

SHAPE = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "torch_dtype": "bfloat16",
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 2048,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}


@cache
def model() -> str:
    path = Path(mkdtemp()) / "tiny.json"
    path.write_text(json.dumps(SHAPE), encoding="utf-8")
    return str(path)


def small_ranks(instance: dict[str, Any], instances: int = 1) -> ClusterSpec:
    """So many groups of three ranks, unless ``instance`` says otherwise."""
    required: dict[str, Any] = {
        "model_name": model(),
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "data_parallel_size": 3,
    }
    node = {"num_instances": instances, "instances": [required | instance] * instances}
    return load_cluster({"num_nodes": 1, "link_bw": 400, "link_latency": 2000, "nodes": [node]})


class Keep:
    def __init__(self) -> None:
        self.rows: dict[int, list[Int64Array]] = {}

    def accept(self, chunk: TurnChunk) -> None:
        self.rows.setdefault(chunk.instance, []).append(chunk.values.copy())


def run(
    instance: dict[str, Any], lengths: list[tuple[int, int, int]], *, in_runs: bool
) -> tuple[RunRecord, dict[int, Int64Array], int]:
    """The record, the turns of each rank, and how many runs were taken."""
    cluster = small_ranks(instance)
    keep = Keep()
    arrivals, prompts, answers = (list(column) for column in zip(*lengths, strict=True))
    workload = Workload.from_columns(arrivals, prompts, answers, "test")
    taken = 0
    take_turns = LockstepRuns.take_turns

    def counted(runs: LockstepRuns) -> bool:
        nonlocal taken
        took = in_runs and take_turns(runs)
        taken += took
        return took

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_PURE", "1")  # the core takes no runs
        patch.setattr(LockstepRuns, "take_turns", counted)
        record = Simulation(cluster, workload, RunOptions(), sinks=[keep]).run()
    return record, {rank: np.concatenate(rows) for rank, rows in keep.rows.items()}, taken


INSTANCES: list[dict[str, Any]] = [
    {},
    {"max_num_seqs": 2},
    {"num_gpu_blocks": 40, "max_model_len": 600},
    {"block_size": 1, "dp_sync_interval": 3},
    {"scheduling_policy": "priority", "max_num_seqs": 2},
    {"engine_overhead": {"update_ns": 40_000, "schedule_ns": 90_000}},
    {"data_parallel_lb": "external"},
    {"pp_size": 2},
    {"async_scheduling": True},
]
LENGTHS = st.lists(
    st.tuples(st.integers(0, 300_000_000), st.integers(1, 400), st.integers(1, 120)), min_size=1, max_size=14
)


def same(instance: dict[str, Any], lengths: list[tuple[int, int, int]]) -> int:
    """Both ways agree in everything; returns how many runs were taken."""
    record, rows, taken = run(instance, lengths, in_runs=True)
    expected, each, none = run(instance, lengths, in_runs=False)
    assert none == 0
    assert rows.keys() == each.keys()
    for rank, values in rows.items():
        np.testing.assert_array_equal(values, each[rank])
    np.testing.assert_array_equal(record.requests.values(), expected.requests.values())
    assert record.totals == expected.totals
    np.testing.assert_array_equal(record.token_gaps, expected.token_gaps)
    return taken


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(INSTANCES), LENGTHS)
def test_runs_leave_the_same_records(instance: dict[str, Any], lengths: list[tuple[int, int, int]]) -> None:
    same(instance, sorted(lengths))


@pytest.mark.parametrize("instance", INSTANCES[:6], ids=str)
def test_a_burst_is_taken_in_runs(instance: dict[str, Any]) -> None:
    assert same(instance, [(0, 100 + 7 * number, 60 + 9 * number) for number in range(12)])
