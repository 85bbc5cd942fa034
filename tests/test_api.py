"""What ``penstock.simulate`` takes beside what the command line does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import UserError, load_workload, simulate
from penstock.cli.main import main
from penstock.scheduler.policies import SchedulerView, StepLimits


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


class OnePrompt:
    """At most one request is admitted per step."""

    def __init__(self, pp_size: int) -> None:
        self.pp_size = pp_size

    def limits(self, view: SchedulerView) -> StepLimits:
        return StepLimits(admissions=1)


class Broken(OnePrompt):
    def limits(self, view: SchedulerView) -> StepLimits:
        raise RuntimeError("not today")


class Last:
    def route(self, request: penstock.Request, instances: Sequence[Any]) -> tuple[int, str]:
        return len(instances) - 1, "the last"


def test_policies_and_routers_may_be_classes_and_objects(repository: Path, dataset: str) -> None:
    two = str(repository / "configs/cluster/single_node_two_instances.json")
    by_class = simulate(two, dataset, num_reqs=20, policy=OnePrompt, router=Last)
    by_object = simulate(two, dataset, num_reqs=20, policy=OnePrompt(1), router=Last())
    assert by_class.requests.equals(by_object.requests)
    assert by_class.requests["instance"].unique().to_list() == [1]
    inputs = by_class.context.inputs
    assert inputs["options"]["router"].endswith(":Last")
    assert inputs["instances"][0]["scheduler"]["policy"].endswith(":OnePrompt")
    json.dumps(by_class.summary_json())


def test_a_policy_that_raises_is_told_with_its_own_line(cluster: str, dataset: str) -> None:
    with pytest.raises(UserError) as caught:
        simulate(cluster, dataset, num_reqs=3, policy=Broken)
    (problem,) = caught.value.problems
    assert problem.where.endswith(":Broken'")
    assert "raised RuntimeError: not today (" in problem.message
    assert "test_api.py:" in problem.message
    with pytest.raises(UserError, match="expected StepLimits"):
        simulate(cluster, dataset, num_reqs=3, policy=_returns_none)
    with pytest.raises(UserError, match="has no method limits"):
        simulate(cluster, dataset, num_reqs=3, policy=lambda pp_size: pp_size)
    with pytest.raises(UserError, match="must be a name, a class, or an object with limits"):
        simulate(cluster, dataset, num_reqs=3, policy=3)


def _returns_none(_pp_size: int) -> Any:
    class Nothing:
        def limits(self, view: SchedulerView) -> None:
            return None

    return Nothing()


def test_a_result_writes_its_report_and_trace_and_shows_itself(
    cluster: str, dataset: str, tmp_path: Path
) -> None:
    result = simulate(cluster, dataset, num_reqs=10)
    result.report(tmp_path / "r.html")
    result.trace(tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert sum(event.get("cat") == "bubble" for event in events) > 10
    shown = result._repr_html_()
    assert shown.count("<rect") > 4
    assert "<script" not in shown
    assert "TTFT" in shown
    bare = simulate(cluster, dataset, num_reqs=3, record="requests")
    assert "<table>" in bare._repr_html_()
    with pytest.raises(LookupError, match="record='stages'"):
        bare.trace(tmp_path / "none.json")


def test_a_trace_from_a_result_has_the_events_of_the_command_line_s(
    cluster: str, dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(
            f"run {cluster} --dataset {dataset} --num-reqs 10 --log-interval 0 --trace {tmp_path / 'a.json'}".split()
        )
    simulate(cluster, dataset, num_reqs=10).trace(tmp_path / "b.json")
    first, second = (
        sorted(map(json.dumps, json.loads((tmp_path / name).read_text())["traceEvents"]))
        for name in ("a.json", "b.json")
    )
    assert first == second
