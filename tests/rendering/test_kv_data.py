"""What the report is told of KV on the move."""

from __future__ import annotations

import json

import pytest

from kv_clusters import cluster, instance
from penstock.engine.simulation import Simulation
from penstock.recording.records import RunRecord
from penstock.rendering.kv_data import MOST_LIVES, kv_data
from penstock.spec.load import load_cluster
from penstock.units import GIB
from penstock.workload.workload import Workload


def run(*instances: dict[str, object], count: int = 12) -> RunRecord:
    times = [number * 5_000_000 for number in range(count)]
    load = Workload.from_columns(times, [300] * count, [20] * count, "test")
    return Simulation(load_cluster(cluster(*instances)), load).run()


def test_there_is_nothing_to_say_where_no_kv_moves() -> None:
    assert kv_data(run(instance())) == {}


def test_ways_lives_and_what_was_under_way() -> None:
    record = run(instance(pd_type="prefill"), instance(pd_type="decode", pp_size=2))
    data = kv_data(record)
    json.dumps(data)
    assert [(one["source"], one["target"], one["stage"]) for one in data["ways"]] == [(0, 1, 0), (0, 1, 1)]
    assert sum(one["transfers"] for one in data["ways"]) == 24
    moved = sum(one.size_bytes for one in record.transfers) / GIB
    assert sum(one["gib"] for one in data["ways"]) == pytest.approx(moved, rel=1e-4)
    assert all(0 < one["busy"] < 1 for one in data["ways"])
    assert max(data["in_flight"]["y"]) > 0
    assert data["in_flight"]["y"][-1] == 0
    assert len(data["lives"]) == 12
    for life in data["lives"]:
        prefill, decode = life["legs"]
        assert (prefill[1], decode[1]) == ("prefill", "decode")
        assert prefill[2] <= prefill[3] <= prefill[4] <= decode[2] <= decode[3] <= decode[4]


def test_a_long_run_shows_some_lives() -> None:
    record = run(instance(pd_type="prefill"), instance(pd_type="decode"), count=500)
    assert MOST_LIVES / 2 < len(kv_data(record)["lives"]) <= MOST_LIVES


def test_hits_of_a_tier() -> None:
    data = kv_data(run(instance(kv_offloading={})))
    (hits,) = data["hits"]
    assert hits["stores"] == 12
    assert hits["tier"] == 0.0
    assert set(data) == {"hits"}
