"""Instances with prefill and decode apart do the same in machine code as in Python, to the byte."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from both_ways import Turns, difference, needs_core, parts_of
from kv_clusters import cluster, instance
from kv_records import random_cluster, random_workload
from penstock.engine.native_replica import NativeReplica
from penstock.engine.simulation import Simulation
from penstock.recording.records import RunRecord
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.units import NEVER_NS
from penstock.validate.disaggregated_setup import read_setup
from penstock.validate.recordings import read_recordings
from penstock.workload.workload import Call, Columns, Workload
from recorded_natively import replayed

pytestmark = needs_core

Config = dict[str, Any]


def case(seed: int) -> Config:
    """A random cluster with prefill and decode apart, some instance of which the core can serve."""
    config = next(
        found
        for found in map(random_cluster, range(1000 * seed, 1000 * seed + 1000))
        if "kv_transfer" in found
    )
    draw = Random(seed)
    transfer = config["kv_transfer"]
    transfer.pop("max_local_prefill_length", None)
    if transfer["kind"] == "pull" and draw.random() < 0.5:
        transfer |= {"read_failure_rate": 0.3, "kv_load_failure_policy": draw.choice(["fail", "recompute"])}
    instances = config["nodes"][0]["instances"]
    for one in instances:
        if draw.random() < 0.2:
            one["policy"] = draw.choice(["decode-cap", "all-cap", "gllm", "sglang"])
    instances[0].pop("kv_offloading", None)
    instances[0]["engine_idle_sleep_ns"] = 1_000_000
    return config


def options(seed: int) -> RunOptions:
    return RunOptions(
        router=("RR", "LOAD", "P2C", "LOT", "RAND")[seed % 5],
        exact_only=seed % 6 == 0,
        keep_token_times=seed % 2 == 0,
        max_concurrency=seed % 7 if seed % 4 == 0 else 0,
    )


@pytest.mark.parametrize("seed", range(60))
def test_random_clusters_are_equal(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    spec = load_cluster(case(seed))
    assert difference(monkeypatch, spec, random_workload(seed), options(seed)) is None


def test_the_recorded_cases_are_served_alike(monkeypatch: pytest.MonkeyPatch, shared_dir: Path) -> None:
    unequal: list[str] = []
    natives = 0
    for recording in read_recordings(shared_dir / "oracle" / "vllm-0.32.0-pd"):
        if recording.data.get("livelock"):
            continue
        setup = read_setup(recording)
        python = replayed(monkeypatch, setup, native=False)
        machine = replayed(monkeypatch, setup, native=True)
        natives += machine.pop("natives")
        assert python.pop("natives") == 0
        assert python["turns"]
        unequal += [f"{recording.case}: {name}" for name in python if python[name] != machine[name]]
    assert natives > 100
    assert unequal == []


@pytest.mark.parametrize("kind", ["pull", "push"])
def test_all_instances_are_served_in_machine_code(kind: str) -> None:
    simulation = started(kind, prompts())
    assert all(isinstance(one, NativeReplica) for one in simulation.serving)


@pytest.mark.parametrize("more", [{"kv_offloading": {}}, {"engine_idle_sleep_ns": 0}])
def test_whoever_the_core_cannot_serve_stays_in_python_beside_the_others(more: Config) -> None:
    config = cluster(instance(pd_type="prefill"), instance(pd_type="decode", **more))
    simulation = Simulation(load_cluster(config), prompts())
    simulation.run()
    assert [isinstance(one, NativeReplica) for one in simulation.serving] == [True, False]


def test_who_asks_for_hits_in_a_prefix_cache_keeps_all_in_python() -> None:
    config = apart("pull")
    config["kv_transfer"]["max_local_prefill_length"] = 10
    simulation = Simulation(load_cluster(config), prompts())
    simulation.run()
    assert not any(isinstance(one, NativeReplica) for one in simulation.serving)


@pytest.mark.parametrize("kind", ["pull", "push"])
@pytest.mark.parametrize("at_us", range(0, 130_000, 5_000))
def test_a_client_may_leave_wherever_its_request_is(
    monkeypatch: pytest.MonkeyPatch, kind: str, at_us: int
) -> None:
    records = [left(monkeypatch, kind, at_us * 1000 + 1, pure=pure) for pure in (True, False)]
    ours, theirs = (parts_of(record, RunOptions()) for record in records)
    assert [one.request for one in records[0].abortions] == [0]
    assert ours == theirs


def left(monkeypatch: pytest.MonkeyPatch, kind: str, at_ns: int, *, pure: bool) -> RunRecord:
    """What a run leaves in which the client of request 0 leaves."""
    monkeypatch.setenv("PENSTOCK_PURE", "1" if pure else "0")
    simulation = started(kind, prompts())
    assert any(isinstance(one, NativeReplica) for one in simulation.serving) != pure
    simulation.advance(at_ns)
    assert simulation.abort(0)
    simulation.advance(NEVER_NS)
    return simulation.record()


def started(kind: str, workload: Workload) -> Simulation:
    """A run before its first event, its instances in machine code where that is there."""
    simulation = Simulation(load_cluster(apart(kind)), workload, sinks=[Turns()])
    simulation._go_native()  # pyright: ignore[reportPrivateUsage]
    return simulation


def apart(kind: str) -> Config:
    transfer: Config = {"kind": kind, "notify_ns": 2_000_000}
    if kind == "pull":
        transfer |= {"proxy_ns": 9_000_000, "kv_lease_duration": 1}
    small = instance(pp_size=2, max_num_batched_tokens=256, num_gpu_blocks=60)
    return cluster(
        small | {"pd_type": "prefill"}, small | {"pd_type": "decode"}, kv_transfer=transfer, link_bw=1
    )


def prompts() -> Workload:
    columns = Columns()
    for number in range(4):
        columns.add(number * 1_000_000, Call(300, 20))
    return Workload(columns, "four")
