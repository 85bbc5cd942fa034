"""The way in: without files, from a wheel, with one mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from imported import imported
from penstock.cli.main import main
from penstock.cli.registry import COMMANDS, SECTIONS, in_one_style


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


WITHOUT_FILES = ("run", "--model", "meta-llama/Llama-3.1-8B", "--hardware", "H100", "--log-interval", 0)


def test_a_run_without_any_file(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tp", 2, "--pp-size", 2, "--rate", 8, "--num-reqs", 20, "--policy", "decode-cap")
    assert call(*WITHOUT_FILES, *options, "--results", "out") == 0
    text = capsys.readouterr().out
    assert "instance 0: meta-llama/Llama-3.1-8B, tp 2 x pp 2; 20 requests" in text
    assert text.count("rests on") == 1
    assert text.rstrip().splitlines()[-1].startswith("wrote out/")
    inputs = json.loads(Path("out/summary.json").read_text())["inputs"]
    assert inputs["cluster"] == "4 H100 (tp 2 x pp 2)"
    assert inputs["dataset"] == "20 chat requests, 8 a second"
    assert inputs["instances"][0]["scheduler"]["policy"] == "decode-cap"


def test_a_cluster_is_an_argument_as_in_capacity(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = repository / "configs/cluster/single_node_pp_instance.json"
    dataset = repository / "workloads/example_trace.jsonl"
    arguments = ("--dataset", dataset, "--num-reqs", 5, "--log-interval", 0)
    assert call("run", cluster, *arguments) == 0
    assert call("run", cluster, "--cluster-config", cluster, *arguments) == 2
    assert "--cluster-config: is given twice" in capsys.readouterr().err
    assert call("run", cluster, "--model", "x", *arguments) == 2
    assert "--model: goes with no cluster config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", 1, "--tp", "two"), "--tp: must be a number from 1 to 100000, not 'two'"),
        (("--rate", 1, "--tp", 16, "--gpus-per-node", 6), "--tp: tp 16 neither divides nor fills"),
        (("--rate", 1, "--pp", 64), "--pp: 64 stages are more than the 32 layers"),
        (("--rate", 1, "--policy", "gllmm"), "--policy: no policy 'gllmm'"),
        (("--rate", -1), "--request-rate: must be a number > 0"),
        ((), "--dataset: is required, or --rate"),
    ],
)
def test_a_mistake_in_the_options_is_told_at_the_option(
    capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], message: str
) -> None:
    assert call(*WITHOUT_FILES, *arguments) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


def test_an_unknown_model_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", "meta-llama/Llama-3.1-9B", "--hardware", "H1000")
    assert call("run", *options, "--rate", 1) == 2
    model, hardware = capsys.readouterr().err.splitlines()
    assert "did you mean 'meta-llama/Llama-3.1-8B'" in model
    assert "hf download ORG/NAME config.json" in model
    assert "did you mean 'H100'" in hardware


def test_a_file_of_another_kind_is_told_in_a_line(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = repository / "configs/cluster/single_node_pp_instance.json"
    config = repository / "configs/model/Qwen/Qwen3-8B.json"
    assert call("run", config, "--rate", 1) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "It looks like a model's config.json" in line
    assert call("run", cluster, "--dataset", cluster) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_init_writes_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("init", "new") == 0
    text = capsys.readouterr().out
    (command,) = (line.split("penstock ")[1] for line in text.splitlines() if line.startswith("one run"))
    assert call(*command.split(), "--num-reqs", 3, "--log-interval", 0) == 0
    assert Path("report.html").exists()
    before = Path("new/cluster.json").read_bytes()
    assert call("init", "new") == 2
    assert "is there already: it is not overwritten" in capsys.readouterr().err
    assert Path("new/cluster.json").read_bytes() == before


def test_the_search_that_init_writes_can_be_read() -> None:
    from penstock.explore.study_spec import load_study

    assert call("init") == 0
    assert load_study(Path("study.yaml")).objectives


def test_models_and_hardware_are_listed_with_what_their_costs_rest_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("models", "llama-3.1-8b", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["model"] == "meta-llama/Llama-3.1-8B"
    assert "RTXPRO6000" in rows[0]["measured_on"]
    assert rows[0]["parameters"] == 8_030_261_248
    assert call("hardware", "rtxpro6000-server") == 0
    text = capsys.readouterr().out
    assert text.startswith("RTXPRO6000\n")
    assert "meta-llama/Llama-3.1-8B (bf16)" in text
    assert call("models", "lama") == 0
    assert call("hardware") == 0
    assert "kernels measured of" in capsys.readouterr().out
    assert call("hardware", "H1000") == 2
    assert call("models", "nothing like it") == 2


def test_a_window_behind_the_run_is_told(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = repository / "configs/cluster/single_node_pp_instance.json"
    dataset = repository / "workloads/example_trace.jsonl"
    given = ("run", cluster, "--dataset", dataset, "--num-reqs", 3, "--log-interval", 0)
    assert call(*given, "--trace", "t.json", "--trace-window", "100s:") == 0
    assert "before --trace-window 100s: begins" in capsys.readouterr().err


def test_the_help_has_every_command_in_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    text = capsys.readouterr().out
    assert all(f"\n{title}:" in text for title in SECTIONS)
    assert all(f"\n  {name} " in text for name in COMMANDS)


def test_options_stand_in_sections_and_say_their_defaults_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--help") == 0
    text = capsys.readouterr().out
    order = ["Workload:", "Output:", "Costs and memory:", "Engine:", "Routing:"]
    assert sorted(order, key=text.index) == order
    for name in COMMANDS:
        assert call(name, "--help") == 0
        assert "[default:" not in capsys.readouterr().out
    assert in_one_style("Shape.  [default: 1.0; x>=0]") == "Shape [1.0; x>=0]."
    assert in_one_style("Plain.") == "Plain."


def test_a_built_wheel_shows_the_demo_in_an_empty_folder(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling, which the extra dev installs")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=repository,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    empty = tmp_path / "empty"
    empty.mkdir()
    program = "import penstock, sys; from penstock.cli.main import main; print(penstock.__file__); main(sys.argv[1:])"
    run = subprocess.run(
        [sys.executable, "-P", "-c", program, "demo"],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path / "site"))
    assert "wrote penstock-demo.html" in run.stdout
    assert (empty / "penstock-demo.html").stat().st_size > 100_000


def test_the_demo_takes_no_library_that_it_can_do_without() -> None:
    """Polars, SciPy and Optuna take longer to import than the demo takes to run."""
    assert imported(["demo"], {"polars", "scipy", "optuna", "ray"}) == []
