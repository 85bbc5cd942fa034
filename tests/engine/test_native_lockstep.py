"""Ranks in lock-step in machine code do what those in Python do, to the byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from both_ways import difference, needs_core
from engine.test_lockstep_runs import INSTANCES, LENGTHS, model
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.workload import Workload

pytestmark = needs_core

MORE: list[dict[str, Any]] = [
    {"pp_size": 2, "async_scheduling": True},
    {"data_parallel_lb": "hybrid", "data_parallel_size_local": 1},
    {"policy": "decode-cap", "pp_size": 2},
]
OPTIONS = st.builds(
    RunOptions,
    exact_only=st.booleans(),
    keep_token_times=st.booleans(),
    max_concurrency=st.sampled_from([0, 0, 3]),
)


def failure(
    patch: pytest.MonkeyPatch,
    instance: dict[str, Any],
    lengths: list[tuple[int, int, int]],
    options: RunOptions,
    instances: int = 1,
) -> str | None:
    required: dict[str, Any] = {
        "model_name": model(),
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "tp_size": 1,
        "data_parallel_size": 3,
    }
    node = {"num_instances": instances, "instances": [required | instance] * instances}
    cluster = load_cluster({"num_nodes": 1, "link_bw": 400, "link_latency": 2000, "nodes": [node]})
    arrivals, prompts, answers = (list(column) for column in zip(*sorted(lengths), strict=True))
    return difference(patch, cluster, Workload.from_columns(arrivals, prompts, answers, "test"), options)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(INSTANCES + MORE), LENGTHS, OPTIONS, st.integers(1, 2))
def test_groups_are_served_alike(
    monkeypatch: pytest.MonkeyPatch,
    instance: dict[str, Any],
    lengths: list[tuple[int, int, int]],
    options: RunOptions,
    instances: int,
) -> None:
    assert failure(monkeypatch, instance, lengths, options, instances) is None
