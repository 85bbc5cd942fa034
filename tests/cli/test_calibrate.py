"""From a benchmark to a calibration to runs with it, on the command line."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from calibration.self_made import SelfMade, fitted_truth, make
from penstock.cli.main import main

WORKLOAD = "".join(
    json.dumps({"input_toks": 100 + 7 * place, "output_toks": 20, "arrival_time_ns": place * 50_000_000})
    + "\n"
    for place in range(30)
)


def run(*arguments: str) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main([str(one) for one in arguments])
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SelfMade:
    """A benchmark of a machine that no catalogue has, with its log."""
    return make(tmp_path_factory.mktemp("made"), 11, fitted_truth(random.Random(11)), count=40)


@pytest.fixture(scope="module")
def calibration(made: SelfMade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What penstock calibrate makes of it."""
    directory = tmp_path_factory.mktemp("calibration")
    packed = directory / "server.log.gz"
    packed.write_bytes(gzip.compress(made.log.read_bytes()))
    path = directory / "calibration.json"
    arguments = ["calibrate", made.cluster, "--bench", made.bench, "--log", packed, "-o", path]
    assert run(*arguments, "--noise", "--report", directory / "report.html") == 0
    return path


def test_the_file_says_where_it_comes_from(calibration: Path, made: SelfMade):
    data: dict[str, Any] = json.loads(calibration.read_text())
    assert data["method"] == "steps"
    assert data["cost"] == "fitted"
    assert data["source"].startswith("bench.json (vllm bench serve, 40 requests) with ")
    assert data["date"] == "2026-11-25 10:30:00"
    assert data["error"].startswith("held-out second half, medians TTFT ")
    assert 0.02 < data["noise"]["sigma"] < 0.1
    base = data["parameters"]["base_ns"]
    assert base["low"] <= base["value"] <= base["high"]
    assert str(made.bench) in data["held_out"]


def test_the_page_needs_no_network(calibration: Path):
    text = (calibration.parent / "report.html").read_text(encoding="utf-8")
    assert "ecdf-half-0-ttft" in text
    assert "residuals-0-batch" in text
    assert "decode_context_ns" in text
    head = text[: text.index("Plotly")] if "Plotly" in text else text
    assert "src=" not in head


def test_validate_bench(
    made: SelfMade, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    arguments = ["validate", "bench", made.cluster, "--bench", made.bench, "--calibration", calibration]
    assert run(*arguments, "--json", out, "--report", page) == 0
    shown = capsys.readouterr().out
    assert "nothing is fitted to it" in shown
    assert "calibration error: held-out second half" in shown
    rows = json.loads(out.read_text())
    statistics = ("p10", "p50", "p90", "p99", "mean")
    metrics = ("ttft", "tpot", "itl", "e2el")
    assert list(rows) == [*(f"{metric}_{name}" for metric in metrics for name in statistics), "throughput"]
    for name, row in rows.items():
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1), name
    assert abs(rows["tpot_p50"]["error"]) < 0.05
    assert "ecdf-all-itl" in page.read_text(encoding="utf-8")


def test_a_run_with_it(made: SelfMade, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dataset = tmp_path / "requests.jsonl"
    dataset.write_text(WORKLOAD)
    results = tmp_path / "results"
    arguments = ["--cluster-config", made.cluster, "--dataset", dataset, "--log-interval", "0"]
    assert run("run", *arguments, "--calibration", calibration, "--results", results) == 0
    shown = capsys.readouterr().out
    assert f"calibration {calibration}: fitted to bench.json" in " ".join(shown.split())
    summary = json.loads((results / "summary.json").read_text())
    assert summary["inputs"]["instances"][0]["calibration"]["hardware"] == "THATCPU"
    assert run("run", *arguments) == 2
    assert "unknown hardware 'THATCPU'" in capsys.readouterr().err


def test_capacity_and_advice_with_it(
    made: SelfMade, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    dataset = tmp_path / "requests.jsonl"
    dataset.write_text(WORKLOAD)
    common = [made.cluster, "--dataset", dataset, "--calibration", calibration]
    assert run("capacity", *common, "--slo", "ttft_p99<2s", "--seeds", "1", "--tolerance", "0.2") == 0
    assert f"calibration {calibration}" in capsys.readouterr().out
    assert run("advise", *common) == 0
    assert "tokens/s" in capsys.readouterr().out


def test_a_search_with_it(
    made: SelfMade, calibration: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "config.json").write_text((made.cluster.parent / "config.json").read_text())
    (tmp_path / "requests.jsonl").write_text(WORKLOAD)
    (tmp_path / "search.yaml").write_text(
        "model: config.json\ndataset: requests.jsonl\nrate: trace\nobjectives: [goodput_per_gpu]\n"
        "npu_mem: {THATCPU: {mem_size: 90, mem_bw: 1000, mem_latency: 0}}\n"
        "networks: {wire: {inside_gb_per_s: 16}}\n"
        "space: {hardware: [THATCPU], pp: [1, 2], tp: [1, 2], network: [wire]}\n"
    )
    arguments = ["explore", tmp_path / "search.yaml", "-o", tmp_path / "out", "--workers", "1"]
    assert run(*arguments, "--calibration", calibration) == 0
    shown = capsys.readouterr().out
    assert "2 points (exhaustive): 2 ok" in shown
    assert "without a cost source it cannot be scaled" in shown
    assert run(*arguments) == 2
    assert "unknown hardware 'THATCPU'" in capsys.readouterr().err


def test_mistakes_are_said_together_and_nothing_is_written(
    made: SelfMade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = tmp_path / "bench.json"
    broken.write_text(json.dumps({"duration": 1.0, "total_input_tokens": 1}))
    output = tmp_path / "calibration.json"
    assert run("calibrate", tmp_path / "absent.json", "--bench", broken, "-o", output) == 2
    errors = capsys.readouterr().err
    assert "absent.json: cannot be read" in errors
    assert "was saved without --save-detailed" in errors
    assert run("calibrate", made.cluster, "--bench", made.bench, "-o", output, "--cost", "kernel") == 2
    assert (
        "must be one of auto, kernels, fitted, not 'kernel'; did you mean 'kernels'?"
        in capsys.readouterr().err
    )
    assert not output.exists()
