"""The comparison of two checkouts finds what differs, and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the comparison forks its runs")


def compare(repository: Path, other: Path, *options: str) -> subprocess.CompletedProcess[str]:
    tool = repository / "tools" / "compare_checkouts.py"
    pair = [f"{path},{sys.executable}" for path in (repository, other)]
    command = [sys.executable, str(tool), *pair, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A checkout with the same sources, to be changed."""
    for name in ("src", "configs"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_equal_checkouts_are_equal(repository: Path, copy: Path) -> None:
    run = compare(repository, copy, "--only", "pp2", "--only", "mistakes", "--strict")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("2 cases equal; ")


def test_a_changed_schedule_shows_in_every_output(repository: Path, copy: Path) -> None:
    replace(
        copy / "src/penstock/spec/options.py",
        "max_num_batched_tokens: int = 2048",
        "max_num_batched_tokens: int = 256",
    )
    run = compare(repository, copy, "--only", "pp2", "--only", "small-budget", "--jobs", "1")
    assert run.returncode == 1, run.stdout + run.stderr
    files = {line.split()[1] for line in run.stdout.splitlines() if line.startswith("pp2 ")}
    assert files == {
        "0.stdout",
        "report.html",
        "results/bubbles.parquet",
        "results/power.parquet",
        "results/requests.parquet",
        "results/stages.parquet",
        "results/steps.parquet",
        "results/summary.json",
        "results/timeline.parquet",
        "run.csv",
        "trace.json",
    }
    assert "1 of 2 cases differ" in run.stdout


def test_a_new_option_is_named_and_counts_only_if_asked(repository: Path, copy: Path) -> None:
    replace(
        copy / "src/penstock/spec/options.py",
        "    exact_only: bool = False\n",
        "    exact_only: bool = False\n    speed: int = 1\n",
    )
    lenient = compare(repository, copy, "--only", "pp2")
    assert lenient.returncode == 0, lenient.stdout + lenient.stderr
    assert "only the second has the member inputs.options.speed" in lenient.stdout
    strict = compare(repository, copy, "--only", "pp2", "--strict")
    assert strict.returncode == 1
    files = [line.split()[1] for line in strict.stdout.splitlines() if line.startswith("pp2 ")]
    assert files == ["report.html", "results/summary.json"]


def test_a_path_without_sources_is_refused(repository: Path, tmp_path: Path) -> None:
    run = compare(repository, tmp_path)
    assert run.returncode == 1
    assert "is not a checkout" in run.stderr
