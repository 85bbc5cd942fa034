from __future__ import annotations

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from penstock.cli.main import main


def run(repository: Path, *arguments: str) -> int:
    cluster = repository / "configs/cluster/single_node_pp4_instance.json"
    dataset = repository / "workloads/example_trace.jsonl"
    given = ["run", "--cluster-config", str(cluster), "--dataset", str(dataset), "--log-interval", "0"]
    with pytest.raises(SystemExit) as left:
        main([*given, "--num-reqs", "10", *arguments])
    return int(left.value.code or 0)


def test_a_trace_a_report_and_a_timeline_are_written(repository: Path, tmp_path: Path) -> None:
    trace, report, results = tmp_path / "t.json.gz", tmp_path / "r.html", tmp_path / "results"
    wanted = ["--trace", str(trace), "--report", str(report), "--results", str(results)]
    assert run(repository, *wanted) == 0
    with gzip.open(trace, "rt", encoding="utf-8") as file:
        assert json.load(file)["otherData"]["truncated"] is False
    assert report.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    ledger = pl.read_parquet(results / "bubbles.parquet")
    timeline = pl.read_parquet(results / "timeline.parquet")
    causes = [name for name in ledger.columns if name.endswith("_ns") and name != "window_ns"]
    assert (
        timeline.group_by("stage")
        .agg(pl.col(causes).sum())
        .sort("stage")
        .select(causes)
        .equals(ledger.sort("stage").select(causes))
    )


def test_a_part_of_the_trace(repository: Path, tmp_path: Path) -> None:
    for name, window in (("whole", "0s:"), ("part", "100ms:200ms")):
        trace = str(tmp_path / f"{name}.json")
        assert run(repository, "--trace", trace, "--trace-window", window) == 0
    assert (tmp_path / "part.json").stat().st_size < (tmp_path / "whole.json").stat().st_size / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace-window", "1s:2s"], "--trace, which is not given"),
        (["--trace", "t.json", "--trace-window", "2s:1s"], "ends before it begins"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(
    repository: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(repository, *arguments) == 2
    assert message in capsys.readouterr().err
