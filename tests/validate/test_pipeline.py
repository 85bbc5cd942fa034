"""``penstock validate pipeline``: the fit, and the two real runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import UserError
from penstock.validate.fit import fit_run, least_absolute_deviations
from penstock.validate.pipeline import LATENCIES, compare_run, validate_pipeline
from penstock.validate.real_run import read_real_run


def test_a_line_is_found_under_gross_outliers():
    tokens = np.arange(1.0, 41.0)
    inputs = np.stack([np.ones(40), tokens], axis=1)
    values = 1000 + 30 * tokens
    values[::7] += 50_000
    assert least_absolute_deviations(inputs, values) == pytest.approx([1000, 30], rel=1e-2)


@pytest.mark.parametrize("name", ["pp1_moderate", "pp2_moderate"])
@pytest.mark.parametrize("half", [0, 1])
def test_real_runs_are_predicted_from_either_half(shared_dir: Path, name: str, half: int):
    run = read_real_run(shared_dir / "oracle" / "real-cpu" / name)
    rows = {row.name: row for row in compare_run(run, fit_run(run, half), replicas=8)}
    for latency in LATENCIES:
        assert abs(rows[f"{latency} p50"].error or 0) <= 0.10, rows[f"{latency} p50"]
    assert abs(rows["makespan"].error or 0) <= 0.05
    assert abs(rows["iterations"].error or 0) <= 0.10
    assert rows["preemptions"].measured == rows["preemptions"].predicted == 0


def test_half_of_the_steps_is_fitted(shared_dir: Path):
    run = read_real_run(shared_dir / "oracle" / "real-cpu" / "pp2_moderate")
    fitted = fit_run(run)
    assert (fitted.steps, len(run.steps)) == (554, 1107)
    assert len(fitted.noise) == fitted.steps
    assert all(stage.per_context_ns >= 0 for stage in fitted.stages)


def test_the_report_is_the_same_twice_and_says_what_was_met(shared_dir: Path):
    directory = shared_dir / "oracle" / "real-cpu" / "pp1_moderate"
    report = validate_pipeline(directory)
    assert report == validate_pipeline(directory)
    assert "makespan: error" in report
    assert report.count(": met") == 2


def test_all_missing_files_are_named_at_once(tmp_path: Path):
    with gzip.open(tmp_path / "client.jsonl.gz", "wt") as text:
        text.write(json.dumps({"req_id": "a"}))
    with pytest.raises(UserError) as caught:
        read_real_run(tmp_path)
    names = [Path(problem.where).name.partition(":")[0] for problem in caught.value.problems]
    assert list(dict.fromkeys(names)) == [
        "requests.jsonl.gz",
        "client.jsonl.gz",
        "iterations.jsonl.gz",
        "summary.json",
    ]
