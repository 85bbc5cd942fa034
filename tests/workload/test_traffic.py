"""Arrivals beyond one rate: their mean stays the one asked for, and they come when they should."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from penstock.cli.main import app
from penstock.errors import UserError
from penstock.workload.traffic import Bursts, RateCurve, parse_bursts, parse_curve


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["workload", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_curve_keeps_the_mean_rate_and_moves_arrivals_to_where_the_rate_is_high() -> None:
    curve = RateCurve((0.0, 10.0, 10.0001, 20.0), (2.0, 2.0, 0.0, 0.0))
    times = curve.warp(np.arange(0, 200, 0.1))
    assert len(times) == 2000
    assert times[-1] < 200
    assert ((times % 20) <= 10.001).all()
    assert np.all(np.diff(times) > 0)


def test_a_flat_curve_changes_nothing() -> None:
    steady = np.cumsum(np.random.default_rng(0).exponential(1, 500))
    assert RateCurve((0.0, 7.0), (3.0, 3.0)).warp(steady) == pytest.approx(steady)


def test_a_ramp_ends_faster_than_it_begins() -> None:
    times = parse_curve("ramp:0.5,1.5").warp(np.arange(1.0, 1001.0))
    gaps = np.diff(times)
    assert times[-1] == pytest.approx(1000, rel=0.01)
    assert gaps[:50].mean() == pytest.approx(2.0, rel=0.1)
    assert gaps[-50:].mean() == pytest.approx(1 / 1.5, rel=0.1)


def test_an_office_day_is_busiest_at_work() -> None:
    times = parse_curve("day:2400").warp(np.cumsum(np.random.default_rng(1).exponential(0.1, 200_000)))
    hours = np.bincount((times % 2400 // 100).astype(int), minlength=24)
    assert hours[10:12].mean() > 5 * hours[2:4].mean()
    assert len(times) / times[-1] == pytest.approx(10, rel=0.03)


def test_bursts_have_the_mean_rate_and_are_burstier_than_poisson() -> None:
    bursts = Bursts(factor=5, share=0.1, mean_s=20)
    times = bursts.times_s(np.random.default_rng(0), 10.0, 200_000)
    assert np.all(np.diff(times) >= 0)
    assert len(times) / times[-1] == pytest.approx(10.0, rel=0.1)
    counts = np.bincount((times // 10).astype(int))[:-1]
    assert counts.var() / counts.mean() > 5  # 1 for a Poisson process


@pytest.mark.parametrize(
    "text",
    [
        "week",
        "ramp:1",
        "ramp:-1,2",
        "points:0,1;0,2",
        "points:1,1;2,1",
        "points:0,0;1,0",
        "day:x",
        "ramp:nan,1",
    ],
)
def test_curves_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--rate-curve"):
        parse_curve(text)


@pytest.mark.parametrize("text", ["0.5,0.1,3", "5,0.5,3", "5,0,3", "x", "2,0.1,30,4"])
def test_bursts_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--bursts"):
        parse_bursts(text)
    assert parse_bursts("3") == Bursts(3.0)


def test_generated_files_follow_the_curve(tmp_path: Path) -> None:
    out = tmp_path / "day.jsonl"
    code, _, error = invoke(
        *("generate", "-n", "2000", "--rate", "10", "--input-toks", "fixed:5", "--output-toks", "fixed:2"),
        *("--arrivals", "mmpp", "--rate-curve", "ramp:0,2", "-o", str(out)),
    )
    assert code == 0, error
    times = [json.loads(line)["arrival_time_ns"] for line in out.read_text().splitlines()]
    assert len(times) == 2000
    assert times == sorted(times)
    assert times[1000] > 0.6 * times[-1]


def test_a_mix_has_its_shares_and_priorities(tmp_path: Path) -> None:
    for name, size in (("chat", 10), ("batch", 999)):
        invoke(
            *("generate", "-n", "50", "--input-toks", f"fixed:{size}", "--output-toks", "fixed:2"),
            *("-o", str(tmp_path / f"{name}.jsonl")),
        )
    parts = ("--part", f"{tmp_path}/chat.jsonl:3", "--part", f"{tmp_path}/batch.jsonl:1:7")
    code, text, error = invoke("mix", "-n", "2000", "--rate", "20", *parts)
    assert code == 0, error
    rows = [json.loads(line) for line in text.splitlines()]
    batch = [row for row in rows if row["input_toks"] == 999]
    assert len(rows) == 2000
    assert len(batch) == pytest.approx(500, abs=80)
    assert {row["priority"] for row in batch} == {7}
    assert all(row.get("priority", 0) == 0 for row in rows if row["input_toks"] == 10)
    assert rows[-1]["arrival_time_ns"] == pytest.approx(100e9, rel=0.1)
    assert invoke("mix", "-n", "2000", "--rate", "20", *parts)[1] == text


def test_parts_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert invoke("mix", "-n", "5", "--part", "chat.jsonl")[0] == 2
    assert invoke("mix", "-n", "5", "--part", f"{tmp_path}/absent.jsonl:0.5")[0] == 2
