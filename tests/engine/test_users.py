"""Closed loops of users who think."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.engine.simulation import Simulation
from penstock.engine.users import Users
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.units import NEVER_NS, NS_PER_S
from penstock.workload.workload import Call, Columns, Workload

INSTANCE = {
    "model_name": "meta-llama/Llama-3.1-8B",
    "hardware": "H100",
    "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
    "num_npus": 1,
}


def run(users: int, think_s: float, requests: int = 600, instances: int = 1) -> np.ndarray:
    node = {"num_instances": instances, "instances": [INSTANCE] * instances}
    cluster = load_cluster({"num_nodes": 1, "link_bw": 64, "link_latency": 0, "nodes": [node]})
    workload = Workload.from_columns([0] * requests, [100] * requests, [20] * requests, "test")
    options = RunOptions(max_concurrency=users, think_time_s=think_s, record="requests")
    return Simulation(cluster, workload, options).run().requests.values()


@pytest.mark.parametrize("instances", [1, 2])
def test_users_are_in_the_engine_or_think(instances: int) -> None:
    users, think_s = 20, 0.4
    log = run(users, think_s, 3000, instances)
    arrival, finish = np.sort(log[:, 4]), np.sort(log[:, 7])
    # The n-th to be sent has a user who is free: at most so many are under way at any time.
    assert (arrival[users:] >= finish[:-users]).all()
    # N = X (R + Z), once the last ones are left out, whose users have nothing more to send.
    span = (arrival[-1] - arrival[0]) / NS_PER_S
    latency = float((log[:, 7] - log[:, 4]).mean()) / NS_PER_S
    assert len(log) / span * (latency + think_s) == pytest.approx(users, rel=0.05)


def test_thoughts_follow_requests_whatever_the_number_of_users() -> None:
    few, many = Users(3, 2.0, 7, 50), Users(8, 2.0, 7, 50)
    firsts = [few.free_ns()]
    assert firsts[0] > 0
    for one in (few, many):
        for _ in range(3):
            one.send()
    assert few.free_ns() == NEVER_NS
    few.answered(4, 10**10)
    thought = few.free_ns() - 10**10
    for _ in range(5):
        many.send()
    many.answered(4, 10**12)
    assert many.free_ns() - 10**12 == thought > 0


def test_without_a_think_time_the_next_one_comes_at_once() -> None:
    users = Users(2, 0.0, 0, 10)
    users.send()
    assert users.free_ns() == 0
    users.send()
    assert users.free_ns() == NEVER_NS
    users.answered(0, 5)
    assert users.free_ns() == 5
    anybody = Users(0, 0.0, 0, 10)
    for _ in range(20):
        anybody.send()
    assert anybody.free_ns() == 0
    assert not anybody.is_limited


def test_a_session_is_one_users_and_the_thought_comes_behind_its_last_call() -> None:
    columns = Columns()
    for _ in range(40):
        columns.add_session(0, [Call(50, 5), Call(60, 5)])
    cluster = load_cluster(
        {
            "num_nodes": 1,
            "link_bw": 64,
            "link_latency": 0,
            "nodes": [{"num_instances": 1, "instances": [INSTANCE]}],
        }
    )
    options = RunOptions(max_concurrency=1, think_time_s=1.0, record="requests")
    log = Simulation(cluster, Workload(columns, "test"), options).run().requests.values()
    log = log[np.argsort(log[:, 4])]
    gaps = (log[1:, 4] - log[:-1, 7]) / NS_PER_S
    assert (gaps[::2] == 0).all()
    assert gaps[1::2].mean() == pytest.approx(1.0, rel=0.4)
