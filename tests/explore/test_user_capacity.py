"""How many users a deployment can have."""

from __future__ import annotations

import pytest

from penstock.explore.capacity import CapacityOptions, HopelessError, find_capacity
from penstock.explore.load_test import LoadTest
from penstock.explore.slo import parse_slo
from penstock.explore.user_capacity import find_users
from penstock.spec.load import load_cluster
from penstock.workload.offered_load import Arrivals, OfferedLoad
from penstock.workload.workload import Workload

QUICK = CapacityOptions(seeds=2, tolerance=0.2, requests=300, max_requests=600)


def load_test(slo: str) -> LoadTest:
    instance = {
        "model_name": "meta-llama/Llama-3.1-8B",
        "hardware": "H100",
        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
        "num_npus": 1,
        "max_num_seqs": 4,
    }
    node = {"num_instances": 1, "instances": [instance]}
    cluster = load_cluster({"num_nodes": 1, "link_bw": 64, "link_latency": 0, "nodes": [node]})
    count = 300
    lengths = [100 + 40 * (n % 7) for n in range(count)], [8 + n % 9 for n in range(count)]
    workload = Workload.from_columns([0] * count, *lengths, "test")
    return LoadTest(cluster, OfferedLoad(workload, Arrivals()), parse_slo(slo))


def test_users_who_think_longer_may_be_more_at_about_the_same_rate() -> None:
    slo = "ttft_p90<300ms"
    short, long = (find_users(load_test(slo), think_s, QUICK) for think_s in (0.5, 2.0))
    for found in (short, long):
        assert found.low <= found.users < found.broke_users
        assert found.high is None or found.broke_users <= found.high
        assert found.held.holds
        assert not found.broke.holds
        assert found.bottleneck.text
    assert 2 < long.users / short.users < 4
    assert long.held.rate_per_s == pytest.approx(short.held.rate_per_s, rel=0.15)
    # Users who wait send nothing: the loop takes no less than the same rate of requests that come whatever happens.
    open_ = find_capacity(load_test(slo), QUICK, explain=False)
    assert long.held.rate_per_s > 0.95 * open_.rate_per_s


def test_what_no_user_can_have_and_what_any_number_can_are_said() -> None:
    with pytest.raises(HopelessError, match="cannot hold with a single user: ttft_p50 is"):
        find_users(load_test("ttft_p50<1us"), 1.0, QUICK)
    with pytest.raises(HopelessError, match="holds with any number of users"):
        find_users(load_test("ttft_p50<10min"), 1.0, QUICK)
