"""LLMServingSim's shipped CSVs, whole: to the nanosecond where the models are made the same."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from tests.serving.upstream import DATA, Rows, compatible, gaps_ns, needs_data, ours, theirs

from penstock.cost.step_cost import StepShape
from penstock.engine.build import build_instances
from penstock.rendering.request_csv import write_request_csv
from penstock.spec.load import load_cluster

pytestmark = needs_data
TIMES = ("arrival", "end_time", "latency", "queuing_delay", "TTFT", "TPOT", "ITL")


def written(config: dict[str, Any], folder: Path) -> Rows:
    """The CSV that our run of ``config`` writes, by request."""
    write_request_csv(folder / "run.csv", ours(config).record)
    with (folder / "run.csv").open(encoding="utf-8") as file:
        return {int(row["request id"]): row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("config", "run"), [("single_node_single_instance", "single"), ("single_node_power_instance", "power")]
)
def test_every_number_of_the_csv_is_equal(config: str, run: str, tmp_path: Path) -> None:
    assert written(compatible(config), tmp_path) == theirs(f"outputs/example_{run}_run.csv")


def test_two_instances_differ_by_one_wait_of_an_idle_one(tmp_path: Path) -> None:
    # There request 1 reaches the idle instance 1 when instance 0's next kernel ends; all else is equal.
    wait_ns = 82_418
    expected = theirs("outputs/example_multi_run.csv")
    rows = written(compatible("single_node_multi_instance"), tmp_path)
    for request, row in rows.items():
        late = wait_ns if row["instance id"] == "1" else 0
        for name in ("end_time", "latency", "TTFT", "queuing_delay"):
            assert int(row[name]) + late == int(expected[request][name])
        assert row["ITL"] == expected[request]["ITL"]


def test_weights_on_cxl_differ_by_the_last_norm(tmp_path: Path) -> None:
    # Here it waits for lm_head's weights, there it is computed before they have come.
    expected = theirs("outputs/example_cxl_run.csv")
    for request, row in written(compatible("single_node_cxl_instance"), tmp_path).items():
        for here, there in zip(gaps_ns(row), gaps_ns(expected[request]), strict=True):
            assert 2_400 < here - there < 2_800


def test_in_that_pipeline_the_last_stage_sets_the_pace() -> None:
    # Four batches take turns at lm_head's stage: 4 x 3.342 ms is the 13.37 ms between tokens of a request.
    rows = theirs("outputs/example_pp_run.csv")
    (instance,) = build_instances(load_cluster(compatible("single_node_pp_instance")), DATA / "perf")
    last_ns = instance.cost.stage.stage_ns(StepShape.of_decodes(2, 32))[-1]
    assert gaps_ns(rows[4])[5] == pytest.approx(4 * last_ns, rel=0.005)
