"""J per token as what `explore`, `advise` and `size` look for, from the command line to the answer."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from tests.explore.studies import write_study
from tests.explore.test_advise import cluster
from typer.testing import CliRunner

from penstock.cli.main import app

REQUESTS = "".join(
    json.dumps({"input_toks": 50 + 13 * (n % 17), "output_toks": 4 + n % 9, "arrival_time_ns": n * 10**7})
    + "\n"
    for n in range(100)
)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "requests.jsonl"
    path.write_text(REQUESTS)
    return path


def test_advice_by_energy_puts_what_saves_most_first(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps(cluster()))
    question = ("advise", tmp_path / "cluster.json", "--dataset", dataset, "--num-reqs", 12, "--json")
    orders: dict[str, list[float]] = {}
    for objective in ("joules_per_token", "speed"):
        code, text, error = invoke(*question, "--objective", objective)
        assert code == 0, error
        table = json.loads(text)
        assert table["baseline"]["joules_per_token"] > 0
        ran = [row for row in table["changes"] if row["failure"] is None]
        orders[objective] = [row["joules_per_token"] for row in ran]
    assert orders["joules_per_token"] == sorted(orders["speed"])
    assert orders["joules_per_token"] != orders["speed"]
    assert min(orders["speed"]) < table["baseline"]["joules_per_token"]


def test_advice_by_energy_needs_a_power(dataset: Path, tmp_path: Path) -> None:
    unknown = cluster(hardware="TPUv6e", npu_mem={"mem_size": 32, "mem_bw": 1640}, tp_size=1, pp_size=4)
    (tmp_path / "cluster.json").write_text(json.dumps(unknown))
    question = ("advise", tmp_path / "cluster.json", "--dataset", dataset, "--num-reqs", 2)
    code, _, error = invoke(*question, "--objective", "joules_per_token")
    assert code == 2
    assert "the power of an accelerator is not known" in error
    code, _, error = invoke(*question, "--objective", "joules")
    assert code == 2
    assert "--objective: unknown objective 'joules'; did you mean 'joules_per_token'?" in error


def test_size_by_energy_orders_what_holds(dataset: Path, tmp_path: Path) -> None:
    question = [
        *("size", "--model", "meta-llama/Llama-3.1-8B", "--rate", 30, "--workers", 1, "--json"),
        *("--workload", dataset, "--max-requests", 300, "--output", tmp_path / "out"),
        *("--slo", "ttft_p90<500ms,tpot_p90<40ms", "--hardware", "L4:4"),
    ]
    orders: dict[str, list[float]] = {}
    for objective in ("gpus", "joules_per_token"):
        code, text, error = invoke(*question, "--objective", objective)
        assert code == 0, error
        (found,) = json.loads(text)["hardware"]
        orders[objective] = [one["joules_per_token"] for one in found["choices"]]
    assert len(orders["gpus"]) > 1
    assert orders["joules_per_token"] == sorted(orders["joules_per_token"])
    assert orders["joules_per_token"][0] == min(orders["gpus"])


def test_explore_by_energy_finds_the_least(tmp_path: Path) -> None:
    path = write_study(
        tmp_path,
        rate=20,
        objectives=["joules_per_token"],
        space={"hardware": ["H100", "L40S"], "gpus": [1, 2], "tp": [1, 2], "pp": [1]},
    )
    code, _, error = invoke("explore", path, "--output", tmp_path / "out", "--workers", 1)
    assert code == 0, error
    table = pl.read_csv(tmp_path / "out" / "table.csv").filter(pl.col("status") == "ok")
    assert len(table) > 2
    assert table.filter("pareto")["joules_per_token"].to_list() == [table["joules_per_token"].min()]
