"""The engine in machine code does what the one in Python does, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from both_ways import difference, needs_core
from penstock.engine.build import build_instances
from penstock.engine.fleet import Fleet
from penstock.engine.native import reason_against
from penstock.engine.router import RoundRobinRouter
from penstock.engine.simulation import Simulation
from penstock.recording.records import REQUEST_COLUMNS
from penstock.spec.options import EngineOverhead, RunOptions
from penstock.validate.recordings import read_recordings
from penstock.workload.request import Request
from penstock.workload.workload import Call, Columns, Workload
from reference.cases import seeded_cluster
from reference.cluster import InstanceCase
from reference.simulated import built_instance, example_cluster

pytestmark = needs_core


def failure_of_cluster(monkeypatch: pytest.MonkeyPatch, seed: int) -> str | None:
    case = seeded_cluster(seed)
    built = [built_instance(index, each) for index, each in enumerate(case.instances)]
    if any(reason_against(each) is not None for each in built):
        return None
    spec = replace(example_cluster(), instances=tuple(each.spec for each in built))
    options = RunOptions(
        router=("RR", "LOAD", "P2C", "LOT", "RAND", "PREFIX")[seed // 3 % 6],
        exact_only=seed % 5 == 0,
        keep_token_times=seed % 2 == 0,
        max_concurrency=seed % 7 if seed % 4 == 0 else 0,
    )
    return difference(monkeypatch, spec, case.workload, options, built)


@pytest.mark.parametrize("seed", range(120))
def test_seeded_clusters_are_equal(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    assert failure_of_cluster(monkeypatch, seed) is None


@given(seed=st.integers(1_000_000, 2**63))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_clusters_are_equal(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    assert failure_of_cluster(monkeypatch, seed) is None


class LastOfAll(RoundRobinRouter):
    """A user's router, made from one of ours."""

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        return len(instances) - 1, "the last"


@needs_core
def test_runs_of_what_was_built_once_are_as_if_built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The core keeps its tables from run to run, also those that have grown meanwhile."""
    cluster = example_cluster()
    kept = build_instances(cluster, None)
    # The second has more decodes at once than the first, so that tables grow, in the core or (the third) in Python.
    for count, pure in ((40, ""), (200, ""), (250, "1"), (250, ""), (40, "")):
        monkeypatch.setenv("PENSTOCK_PURE", pure)
        workload = Workload.from_columns([0] * count, [300] * count, list(range(20, 20 + count)), "drawn")
        again = Simulation(cluster, workload, built=kept).run()
        anew = Simulation(cluster, workload, built=build_instances(cluster, None)).run()
        assert again.requests.values().tolist() == anew.requests.values().tolist()
        assert again.totals[0].busy_ns == anew.totals[0].busy_ns


def test_a_router_made_from_one_of_ours_is_asked() -> None:
    cluster = replace(two_alike := example_cluster(), instances=(two_alike.instances[0],) * 2)
    built = [replace(one, index=index) for index, one in enumerate(cluster.instances)]
    cluster = replace(cluster, instances=tuple(built))
    workload = Workload.from_columns([0, 1, 2], [8, 8, 8], [2, 2, 2], "three")
    record = Simulation(cluster, workload, RunOptions(router=LastOfAll)).run()
    instance = REQUEST_COLUMNS.index("instance")
    assert record.requests.values()[:, instance].tolist() == [1, 1, 1]


@pytest.mark.parametrize("folder", ["vllm-0.32.0", "vllm-0.32.0-priority"])
def test_the_recorded_cases_are_served_alike(
    monkeypatch: pytest.MonkeyPatch, shared_dir: Path, folder: str
) -> None:
    found: list[str] = []
    cases = 0
    for recording in read_recordings(shared_dir / "oracle" / folder):
        if recording.data.get("livelock"):
            continue
        cost = recording.cost()
        case = InstanceCase(recording.options(), recording.num_gpu_blocks, cost, EngineOverhead(), False)
        built = [built_instance(0, case)]
        spec = replace(example_cluster(), instances=(built[0].spec,))
        unequal = difference(monkeypatch, spec, _workload(recording.requests()), RunOptions(), built)
        if unequal is not None:
            found.append(f"{recording.case}: {unequal}")
        cases += 1
    assert cases > 100
    assert found == []


def _workload(requests: Sequence[Request]) -> Workload:
    columns = Columns()
    for one in requests:
        ids, outputs = one.input_ids, one.output_ids
        call = Call(one.input_tokens, one.output_tokens, 0, ids, outputs, priority=one.priority)
        columns.add(one.arrival_ns, call)
    return Workload(columns, "recorded")
