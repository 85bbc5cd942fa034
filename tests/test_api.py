"""What ``penstock.simulate`` takes beside what the command line does."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock import UserError, load_workload, simulate


@pytest.fixture
def cluster(repository: Path) -> str:
    return str(repository / "configs/cluster/single_node_pp_instance.json")


@pytest.fixture
def dataset(repository: Path) -> str:
    return str(repository / "workloads/example_trace.jsonl")


def test_a_policy_is_an_option_that_an_instance_may_say_itself(cluster: str, dataset: str) -> None:
    plain = simulate(cluster, dataset, num_reqs=30, record="requests")
    capped = simulate(cluster, dataset, num_reqs=30, record="requests", policy="decode-cap(cap=1)")
    assert capped.context.inputs["instances"][0]["scheduler"]["policy"] == "decode-cap(cap=1)"
    assert capped.summary.engine.iterations > plain.summary.engine.iterations


def test_every_mistake_is_told_at_once(cluster: str) -> None:
    with pytest.raises(UserError) as caught:
        simulate(cluster, "nowhere.jsonl", polcy="x", block_size=0)  # pyright: ignore[reportCallIssue]
    told = [str(problem) for problem in caught.value.problems]
    assert told[0] == "polcy: unknown option; did you mean 'policy'?"
    assert any(line.startswith("block_size: ") for line in told)
    assert any(line.startswith("nowhere.jsonl: cannot be read") for line in told)


def test_a_workload_has_another_name_where_it_is_told_one(dataset: str) -> None:
    workload = load_workload(dataset)
    assert workload.renamed("mine").source == "mine"
    assert workload.source == dataset
    assert list(workload.renamed("mine").arrival_ns) == list(workload.arrival_ns)


def test_all_public_names_are_there() -> None:
    assert all(getattr(penstock, name) is not None for name in penstock.__all__)
