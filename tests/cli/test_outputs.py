"""Every command refuses, before it begins, to write over what it reads or to write one file twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from penstock.cli.main import main
from penstock.files import writing

CLUSTER = "configs/cluster/single_node_pp_instance.json"


@pytest.fixture
def place(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with one of each input."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(repository / "configs", tmp_path / "configs")
    shutil.copy(CLUSTER, "cluster.json") if Path(CLUSTER).exists() else None
    Path("w.jsonl").write_text('{"input_toks": 9, "output_toks": 3, "arrival_time_ns": 0}\n' * 4)
    Path("study.yaml").write_text(
        "model: meta-llama/Llama-3.1-8B\ndataset: study-results/best-requests.jsonl\nrate: trace\n"
        "space: {hardware: H100, tp: 1}\n"
    )
    Path("study-results").mkdir()
    shutil.copy("w.jsonl", "study-results/best-requests.jsonl")
    Path("rec.json").write_text("{}")
    Path("bench.json").write_text("{}")
    for name in ("A", "B"):
        assert call("run", "--cluster-config", CLUSTER, "--dataset", "w.jsonl", "--results", name) == 0
    return tmp_path


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    return int(caught.value.code or 0)


def state(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    "line",
    [
        f"run --cluster-config {CLUSTER} --dataset w.jsonl --output w.jsonl",
        f"run --cluster-config {CLUSTER} --dataset w.jsonl --output x --report x",
        f"run --cluster-config {CLUSTER} --dataset w.jsonl --output configs/model/meta-llama/Llama-3.1-8B.json",
        f"capacity {CLUSTER} --dataset w.jsonl --slo ttft_p99<2s --output {CLUSTER}",
        f"capacity {CLUSTER} --dataset w.jsonl --slo ttft_p99<2s --curve w.csv --output w.csv",
        "validate schedule rec.json --dump rec.json",
        "compare A B --report A/summary.json",
        "compare A B --report B/requests.parquet",
        f"calibrate {CLUSTER} --bench bench.json -o bench.json",
        f"calibrate {CLUSTER} --bench bench.json -o c.json --report c.json",
        f"validate bench {CLUSTER} --bench bench.json --json {CLUSTER}",
        "validate measured A --dataset w.jsonl --plot w.jsonl",
        "explore study.yaml",
        "workload convert w.jsonl -o w.jsonl",
        "workload generate -n 3 --lengths-from w.jsonl -o w.jsonl",
        "workload mix --part w.jsonl:1 -n 3 -o w.jsonl",
        "profile fit A -o A/meta.yaml",
    ],
)
def test_no_input_is_written_over(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if line.startswith("profile fit"):
        (place / "A" / "meta.yaml").write_text("hardware: H100\n")
    before = state(place)
    capsys.readouterr()
    assert call(*line.split()) == 2
    captured = capsys.readouterr()
    assert "an input of this run" in captured.err or "writes there too" in captured.err
    assert captured.err.count("error: ") == len(captured.err.splitlines())
    assert state(place) == before


def test_a_full_disk_leaves_nothing_of_a_run(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        f"run --cluster-config {CLUSTER} --dataset w.jsonl --output o/x.csv --results o/r --report o/x.html"
    )
    before = state(place)
    real, written = writing.write_to, 0

    def full(file: object, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 20_000:
            raise OSError(28, "No space left on device")
        return real(file, data)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "write_to", full)
    assert call(*words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: o/")
    assert line.endswith("cannot be written: No space left on device")
    assert state(place) == before
    assert not (place / "o").exists()


def test_results_are_compared_without_being_touched(place: Path) -> None:
    before = json.loads((place / "A" / "summary.json").read_text())
    assert call("compare", "A", "B", "--report", "A/page.html") == 0
    assert call("compare", "A", "B", "--report", "A/page.html") == 0
    assert json.loads((place / "A" / "summary.json").read_text()) == before
