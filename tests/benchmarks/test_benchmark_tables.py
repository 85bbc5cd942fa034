"""The tables of ``python -m benchmarks`` are made from its JSON; no time is asserted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.report import MEASURED, PROFILED, render, update_docs
from benchmarks.targets import ratio, targets


def _row(what: str, running: int, cpu_s: float) -> dict[str, Any]:
    return {
        "what": what,
        "shape": "pp4",
        "requests": 1000,
        "max_num_seqs": running,
        "iterations": 5000,
        "min_cpu_s": cpu_s,
        "iterations_per_s": 5000 / cpu_s,
        "median_iterations_per_s": 4000 / cpu_s,
        "requests_per_s": 1000 / cpu_s,
        "peak_mb": 90.0,
    }


def _goal(name: str, way: str, value: float) -> dict[str, Any]:
    return {"name": name, "way": way, "value": value, "min_cpu_s": 100 / value, "peak_mb": 200.0, "load": 1.0}


GROUPS = {
    "goals": [
        _goal("pp 4, 128 running, synchronous", "before", 100_000.0),
        _goal("pp 4, 128 running, synchronous", "plain", 150_000.0),
        _goal("pp 4, 128 running, synchronous", "compiled", 1_600_000.0),
        _goal("100,000 requests, pp 4, CSV without ITL, whole process", "compiled", 2.5),
    ],
    "saturated": [_row("run", 128, 0.02), _row("run", 512, 0.1), _row("engine", 512, 0.01)],
    "reference": [_row("run", 512, 0.1), _row("reference", 512, 6.5)],
}
MACHINE = {"cpu": "a processor", "cores": 2, "python": "3.11", "load_average": 0.5}


def test_targets_compare_whole_runs_with_their_limits():
    met = {target.name: target.is_met for target in targets(GROUPS)}
    assert met["pp 4, 128 running, synchronous, compiled"] is True
    assert met["pp 4, 128 running, synchronous, plain"] is False
    assert met["100,000 requests, pp 4, CSV without ITL, whole process: peak memory"] is True
    assert met["times the reference scheduler at 512 running"] is True


def test_targets_of_cases_left_out_are_not_measured():
    met = {target.name: target.is_met for target in targets({})}
    assert set(met.values()) == {None}
    assert ratio({}) is None


def test_tables_show_every_row_measured():
    text = render({"quick": True, "cost_basis": "a fit", "machine": MACHINE, "groups": GROUPS})
    assert "| 512     | whole run, bubbles accounted |    1,000 |      5,000 |     50,000 |" in text
    assert "The whole run is 65 times as fast as the reference." in text
    assert "Whole processes" not in text
    (line,) = (line for line in text.splitlines() if line.startswith("| pp 4, 128 running, synchronous "))
    assert [cell.strip() for cell in line.split("|")[2:-1]] == [
        "1,500,000",
        "1,600,000",
        "200,000",
        "150,000",
        "100,000",
        "16.0",
    ]


def test_each_part_of_the_page_is_replaced_alone(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "head\n<!-- begin: measured (how) -->\nold\n<!-- end: measured -->\n"
        "middle\n<!-- begin: profiled (how) -->\nkept\n<!-- end: profiled -->\n"
    )
    update_docs(page, MEASURED, "new \\1 text")
    assert page.read_text() == (
        "head\n<!-- begin: measured (how) -->\n\nnew \\1 text\n\n<!-- end: measured -->\n"
        "middle\n<!-- begin: profiled (how) -->\nkept\n<!-- end: profiled -->\n"
    )
    update_docs(page, PROFILED, "lines")
    assert "kept" not in page.read_text()


def test_a_page_without_the_markers_is_left_alone(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("nothing to replace\n")
    with pytest.raises(ValueError, match="lacks the markers"):
        update_docs(page, MEASURED, "new")
    assert page.read_text() == "nothing to replace\n"
