"""``penstock capacity``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli.main import app

CLUSTER = {
    "num_nodes": 1,
    "link_bw": 64,
    "link_latency": 1000,
    "nodes": [
        {
            "num_instances": 1,
            "instances": [
                {
                    "model_name": "meta-llama/Llama-3.1-8B",
                    "hardware": "H100",
                    "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
                    "num_npus": 2,
                    "pp_size": 2,
                    "max_num_seqs": 16,
                }
            ],
        }
    ],
}


SHORT = ("--max-requests", "240")


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    cluster, dataset = tmp_path / "cluster.json", tmp_path / "requests.jsonl"
    cluster.write_text(json.dumps(CLUSTER))
    lines = (
        json.dumps(
            {"input_toks": 100 + 13 * (n % 17), "output_toks": 5 + n % 11, "arrival_time_ns": n * 10**7}
        )
        for n in range(120)
    )
    dataset.write_text("\n".join(lines))
    return [str(cluster), "--dataset", str(dataset)]


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["capacity", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_it_says_the_capacity_and_what_limits_it(inputs: list[str], tmp_path: Path) -> None:
    out, curve = tmp_path / "out.json", tmp_path / "curve.csv"
    code, text, _ = invoke(
        *inputs,
        *SHORT,
        "--slo",
        "ttft_p90<100ms",
        "--seeds",
        "3",
        "--output",
        str(out),
        "--curve",
        str(curve),
    )
    assert code == 0
    for words in (
        "95% interval",
        "3 runs of 240 requests a rate (the 120 of the workload 2 times, shuffled)",
        "limited by  ttft_p90",
        "because of",
        "rests on",
    ):
        assert words in text
    found = json.loads(out.read_text())
    assert found["low_per_s"] <= found["rate_per_s"] <= found["high_per_s"]
    assert f"{found['rate_per_s']:.4g} requests/s" in text
    assert found["bottleneck"]["metric"] == "ttft_p90"
    rows = curve.read_text().splitlines()
    assert len(rows) == 13
    assert rows[0].startswith("rate_per_s,ttft_p50_ns")
    assert rows[1].endswith("True")


def test_the_same_question_has_the_same_answer(inputs: list[str]) -> None:
    question = (*inputs, *SHORT, "--slo", "ttft_p90<100ms", "--seeds", "2", "--arrivals", "scaled")
    assert invoke(*question) == invoke(*question)


def test_the_curve_can_be_a_page(inputs: list[str], tmp_path: Path) -> None:
    page = tmp_path / "curve.html"
    assert invoke(*inputs, *SHORT, "--slo", "ttft_p90<100ms", "--seeds", "1", "--curve", str(page))[0] == 0
    html = page.read_text()
    assert "curve-ttft_p90" in html
    assert 'src="http' not in html


def test_it_can_be_asked_for_users_who_think(inputs: list[str], tmp_path: Path) -> None:
    out = tmp_path / "users.json"
    question = (*inputs, *SHORT, "--slo", "ttft_p90<150ms", "--seeds", "2", "--think-time", "0.5")
    code, text, error = invoke(*question, "--tolerance", "0.3", "--output", str(out))
    assert (code, error) == (0, "")
    found = json.loads(out.read_text())
    assert f"capacity    {found['users']:,} users (95% interval {found['low']:,} to" in text
    assert "each thinking 0.5 s on average before the next" in text
    assert "limited by  ttft_p90: " in text
    code, _, error = invoke(*question, "--curve", str(tmp_path / "c.csv"))
    assert code == 2
    assert "--curve: is latency over requests/s: not of users" in error


def test_an_impossible_slo_is_an_error(inputs: list[str]) -> None:
    code, _, error = invoke(*inputs, *SHORT, "--slo", "ttft_p90<1us")
    assert code == 2
    assert "cannot hold at any rate" in error
    assert "Traceback" not in error


def test_mistakes_come_together(inputs: list[str], tmp_path: Path) -> None:
    code, _, error = invoke(
        inputs[0], "--dataset", "nowhere.jsonl", "--slo", "ttft<1s", "--curve", "curve.txt"
    )
    assert code == 2
    for words in ("nowhere.jsonl", "--slo: 'ttft<1s' is not a bound", "--curve: must end in .csv or .html"):
        assert words in error
    assert invoke(*inputs, *SHORT, "--slo", "ttft_p90<1s", "--arrivals", "poison")[0] == 2
    assert invoke(*inputs, *SHORT, "--slo", "ttft_p90<1s", "--output", str(tmp_path))[0] == 2
