"""``penstock explore``: what it prints and writes, goes on from, and refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from explore.studies import write_study
from penstock.cli.explore import ExploreCommand
from penstock.cli.main import app


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def table_of(directory: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((directory / "study-results/table.csv").read_text().splitlines()))


def test_it_prints_the_front_and_writes_a_config_that_runs(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    code, text, error = invoke("explore", str(path), "--workers", "1")
    assert (code, error) == (0, "")
    out = tmp_path / "study-results"
    for words in (
        "Pareto front",
        "best on goodput_per_gpu",
        "rests on\n",
        "price: H100 2.99 USD",
        str(out / "best.json"),
    ):
        assert words in text
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"input_toks": 10, "output_toks": 3, "arrival_time_ns": 0}\n')
    code, text, _ = invoke("run", "--cluster-config", str(out / "best.json"), "--dataset", str(requests))
    assert code == 0
    assert "1 finished" in text


def test_every_command_it_prints_runs_and_shows_what_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_study(tmp_path)
    _, text, _ = invoke("explore", str(path), "--workers", "1")
    (command,) = [line.strip() for line in text.splitlines() if line.strip().startswith("penstock run")]
    table = table_of(tmp_path)
    best = next(row for row in table if f"best on goodput_per_gpu: {row['label']}\n" in text)
    code, ran, error = invoke(*shlex.split(command)[1:])
    assert (code, error) == (0, "")
    assert f"{int(best['requests'])} finished" in ran.replace(",", "")
    first = table[0]
    code, text, error = invoke("explore", str(path), "--workers", "1", "--point", first["key"])
    assert code == 0
    assert invoke(*shlex.split(text.splitlines()[1])[1:])[0] == 0
    assert invoke("explore", str(path), "--workers", "1", "--point", "nothing")[0] == 2


def test_spaces_can_be_a_list_under_constraints(tmp_path: Path) -> None:
    space = [
        {"hardware": "H100", "gpus": [1, 2], "tp": [1, 2]},
        {"hardware": "L40S", "gpus": [2, 4], "tp": [2, 4]},
    ]
    path = write_study(tmp_path, space=space, constraints=["$/hour <= 3", "not (tp == 1 and replicas > 1)"])
    code, text, _ = invoke("explore", str(path), "--workers", "1")
    assert code == 0
    table = table_of(tmp_path)
    assert [row["label"] for row in table] == ["H100, TP1", "L40S, TP2"]
    assert "4 x $/hour <= 3" in text
    assert "best per hardware" in text


def test_mistakes_in_constraints_and_spaces_have_their_places(tmp_path: Path) -> None:
    bad = ["gpu <= 3", "gpus <=", "tp + 1", "hardware < 3", "gpus.real > 1"]
    space = [{"hardware": "H100"}, {"hardware": "H200X", "tp": 0}]
    code, _, error = invoke("explore", str(write_study(tmp_path, constraints=bad, space=space)))
    assert code == 2
    for words in (
        "constraints[0]: 'gpu <= 3': no choice 'gpu'; did you mean 'gpus'?",
        "constraints[1]: 'gpus <=' is not an expression",
        "constraints[2]: 'tp + 1' is not a comparison",
        "constraints[3]: 'hardware < 3' compares what cannot be compared",
        "constraints[4]: 'gpus.real > 1': only names",
        "space[1].tp",
    ):
        assert words in error


def test_a_second_call_evaluates_nothing_and_says_the_same(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    first = invoke("explore", str(path), "--workers", "1")
    results = tmp_path / "study-results" / "results.jsonl"
    before = results.read_bytes()
    assert invoke("explore", str(path), "--workers", "2") == first
    assert results.read_bytes() == before


def test_a_space_in_which_nothing_can_run_is_an_error(tmp_path: Path) -> None:
    path = write_study(tmp_path, model="meta-llama/Llama-3.1-405B")
    code, _, error = invoke("explore", str(path))
    assert code == 2
    assert "no point can run" in error
    assert "memory" in error


def test_mistakes_in_the_file_are_errors(tmp_path: Path) -> None:
    code, _, error = invoke("explore", str(write_study(tmp_path, rate="often", tolerance=7)))
    assert code == 2
    assert "rate: must be" in error
    assert "tolerance: must be <= 0.5" in error
    path = write_study(tmp_path)
    code, _, error = invoke("explore", str(path), "-o", str(path))
    assert code == 2
    assert "is not a directory" in error


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_the_user_is_told(tmp_path: Path) -> None:
    code, _, error = invoke("explore", str(write_study(tmp_path)), "--ray")
    assert code == 2
    assert 'pip install "penstock[ray]"' in error


@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        (["s.yaml"], None),
        (["s.yaml", "--ray"], "local"),
        (["--ray", "s.yaml"], "local"),
        (["--ray", "auto", "s.yaml"], "auto"),
        (["s.yaml", "--ray", "10.0.0.1:6379"], "10.0.0.1:6379"),
        (["s.yaml", "--ray", "--workers", "2"], "local"),
        (["s.yaml", "--ray=ray://head:10001"], "ray://head:10001"),
    ],
)
def test_ray_takes_an_address_or_none(arguments: list[str], meaning: str | None) -> None:
    import click
    import typer.main

    from penstock.cli.explore import app as explore_app

    command = typer.main.get_command(explore_app)
    assert isinstance(command, ExploreCommand)
    context = command.make_context("explore", list(arguments))
    assert isinstance(context, click.Context) or context is not None
    assert context.params["ray"] == meaning
    assert str(context.params["spec"]) == "s.yaml"


def test_results_are_one_json_object_a_line(tmp_path: Path) -> None:
    invoke("explore", str(write_study(tmp_path)), "--workers", "1", "-o", str(tmp_path / "r"))
    lines = [json.loads(line) for line in (tmp_path / "r" / "results.jsonl").read_text().splitlines()]
    assert lines
    assert all({"key", "point", "status", "trials"} <= line.keys() for line in lines)
