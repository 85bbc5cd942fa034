"""Requests go to instances of their model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

import penstock
from penstock.engine.fleet import watch
from penstock.engine.models import (
    ModelRouter,
    cluster_models,
    cluster_router,
    eligible_instances,
    model_problems,
)
from penstock.engine.router import ROUTERS, LeastTokensRouter, PowerOfTwoRouter, RoundRobinRouter
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.spec.cluster import ClusterSpec
from penstock.spec.load import load_cluster
from penstock.workload.request import Request
from penstock.workload.workload import Call, Columns, Workload

LLAMA, QWEN = "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B"


def cluster(*models: str) -> ClusterSpec:
    instances = [
        {"model_name": model, "hardware": "H200", "npu_mem": {"mem_size": 141, "mem_bw": 4800}, "num_npus": 1}
        for model in models
    ]
    nodes = [{"num_instances": len(models), "instances": instances}]
    return load_cluster({"num_nodes": 1, "link_bw": 16, "link_latency": 0, "nodes": nodes})


def workload(*models: str | None) -> Workload:
    columns = Columns()
    for place, model in enumerate(models):
        columns.add(place * 1000, Call(10, 2, model=model))
    return Workload(columns, "w.jsonl")


@dataclass
class Busy:
    num_running: int = 0
    num_waiting: int = 0
    max_num_seqs: int = 8
    outstanding_tokens: int = 0


def ask(router: Any, instances: list[Busy], model: str | None) -> int:
    return router.route(Request(0, 0, 10, 2, model=model), watch(instances)[0])[0]


def messages(*models: str | None, on: ClusterSpec) -> list[str]:
    return [str(problem) for problem in model_problems(on, workload(*models))]


def test_who_is_eligible() -> None:
    spec = cluster(LLAMA, QWEN, LLAMA)
    assert cluster_models(spec) == (LLAMA, QWEN)
    assert eligible_instances(spec, LLAMA) == (0, 2)
    assert eligible_instances(spec, QWEN) == (1,)
    assert eligible_instances(spec, "another") == ()
    assert eligible_instances(spec, None) == (0, 1, 2)


def test_each_model_has_a_router_of_its_own() -> None:
    router = ModelRouter(cluster(LLAMA, QWEN, LLAMA, QWEN), RoundRobinRouter)
    idle = [Busy() for _ in range(4)]
    chosen = [ask(router, idle, model) for model in (LLAMA, LLAMA, QWEN, LLAMA, QWEN, QWEN)]
    assert chosen == [0, 2, 1, 0, 3, 1]


def test_routers_see_the_present_of_their_instances_only() -> None:
    router = ModelRouter(cluster(LLAMA, QWEN, LLAMA, QWEN), LeastTokensRouter)
    instances = [Busy(outstanding_tokens=tokens) for tokens in (50, 0, 20, 1)]
    assert ask(router, instances, LLAMA) == 2
    instances[2] = replace(instances[2], outstanding_tokens=60)
    assert ask(router, instances, LLAMA) == 0
    assert ask(router, instances, QWEN) == 1


def test_one_instance_needs_no_router() -> None:
    router = ModelRouter(cluster(LLAMA, QWEN), PowerOfTwoRouter)
    assert [ask(router, [Busy(), Busy()], model) for model in (QWEN, LLAMA)] == [1, 0]
    with pytest.raises(LookupError, match="request 0 names no model of the cluster"):
        ask(router, [Busy(), Busy()], None)


def test_one_model_keeps_its_plain_router() -> None:
    assert isinstance(cluster_router(cluster(LLAMA, LLAMA), RoundRobinRouter), RoundRobinRouter)
    assert isinstance(cluster_router(cluster(LLAMA, QWEN), RoundRobinRouter), ModelRouter)


def test_what_requests_must_name() -> None:
    one, two = cluster(LLAMA, LLAMA), cluster(LLAMA, QWEN)
    assert messages(None, LLAMA, on=one) == []
    assert messages(QWEN, LLAMA, on=two) == []
    assert messages(None, LLAMA, None, on=two) == [
        f"w.jsonl: 2 of 3 requests: each names no model ('model'); the cluster has {LLAMA}, {QWEN}"
    ]
    (message,) = messages("Qwen/Qwen3-23B", None, on=one)
    assert message.startswith("w.jsonl: 1 of 2 requests: each names the model 'Qwen/Qwen3-23B'")
    assert message.endswith(f"; the cluster has {LLAMA}")


@pytest.mark.parametrize("router", sorted(ROUTERS))
def test_a_run_serves_each_request_where_its_model_is(router: str) -> None:
    models = [QWEN, LLAMA, LLAMA, QWEN, LLAMA] * 8
    result = penstock.simulate(cluster(LLAMA, QWEN, LLAMA, QWEN), workload(*models), router=router)
    assert result.requests["model"].to_list() == models
    assert result.requests["instance"].n_unique() > 2


def test_later_calls_of_a_session_may_want_another_model() -> None:
    columns = Columns()
    columns.add_session(0, [Call(10, 2, model=LLAMA), Call(10, 2, model=QWEN), Call(10, 2, model=LLAMA)])
    result = penstock.simulate(cluster(QWEN, LLAMA), Workload(columns, "session"))
    assert result.requests["instance"].to_list() == [1, 0, 1]


def test_a_run_refuses_requests_that_could_go_to_either_model() -> None:
    for run in (penstock.simulate, Simulation):
        with pytest.raises(UserError, match="2 of 2 requests: each names no model"):
            run(cluster(LLAMA, QWEN), workload(None, None))
    assert penstock.simulate(cluster(LLAMA), workload(LLAMA, None)).summary.requests.finished == 2


def test_a_request_that_is_submitted_names_one_too() -> None:
    simulation = Simulation(cluster(LLAMA, QWEN))
    with pytest.raises(ValueError, match="request 0 names no model"):
        simulation.submit(Request(0, 0, 10, 2))
    simulation.submit(Request(0, 0, 10, 2, model=QWEN))
    assert simulation.run().requests.values()[0, 1] == 1
