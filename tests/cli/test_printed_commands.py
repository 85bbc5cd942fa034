"""Every command that a command prints, on the terminal or in a page, runs as it stands and shows what was found."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from explore.studies import write_study
from penstock.cli.main import app
from penstock.cli.registry import COMMANDS
from spec.test_calibration import kernels

COMMAND = re.compile(rf"penstock (?:{'|'.join(COMMANDS)})\b.*")
REQUESTS = "".join(
    json.dumps({"input_toks": 50 + 13 * (n % 17), "output_toks": 4 + n % 9, "arrival_time_ns": n * 10**7})
    + "\n"
    for n in range(100)
)
PACKAGED = "configs/cluster/single_node_pp_instance.json"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requests.jsonl").write_text(REQUESTS)


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def commands(text: str) -> list[str]:
    """All commands in a text, each once."""
    return list(dict.fromkeys(found.strip() for found in COMMAND.findall(text)))


def commands_of_page(path: str) -> list[str]:
    """Those that stand in the cells of a page, and those that its script shows."""
    page = Path(path).read_text(encoding="utf-8")
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(?:<[^>]*>)?([^<]*)", page)]
    data = page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    shown = [point["command"] for point in json.loads(data).get("points", {}).values()]
    return list(dict.fromkeys([*commands("\n".join(cells)), *shown]))


def run(command: str) -> str:
    return call(*shlex.split(command)[1:])


def finished(text: str) -> int:
    found = re.search(r"([\d,]+) finished", text)
    assert found is not None, text
    return int(found[1].replace(",", ""))


def test_the_commands_of_explore() -> None:
    space = {"hardware": ["H100", "L40S"], "gpus": 2, "tp": 1, "router": "RR"}
    write_study(Path(), space=space)
    text = call("explore", "study.yaml", "--workers", "1")
    (best,) = commands(text)
    assert "--router RR" in best
    assert finished(run(best)) >= 80
    of_page = commands_of_page("study-results/report.html")
    assert len(of_page) == int(re.search(r"(\d+) points", text)[1])  # pyright: ignore[reportOptionalSubscript]
    for command in of_page:
        (shown,) = commands(run(command))
        assert finished(run(shown)) >= 80


def test_the_commands_of_an_explore_with_a_calibration() -> None:
    Path("fitted.json").write_text(json.dumps(kernels()))
    space = {"hardware": "RTXPRO6000", "gpus": 1, "tp": 1, "pp": 1}
    write_study(Path(), space=space, objectives=["goodput"])
    question = ("--workers", "1", "--calibration", "fitted.json", "--output", "found")
    text = call("explore", "study.yaml", *question)
    assert all("--calibration fitted.json" in one for one in commands(text))
    (command,) = commands_of_page("found/report.html")
    (shown,) = commands(run(command))
    before = call(*shlex.split(commands(text)[0])[1:])
    assert run(shown).splitlines()[0] == before.splitlines()[0]


def test_the_commands_of_size() -> None:
    Path("profiles").mkdir()
    question = [
        *("size", "--model", "meta-llama/Llama-3.1-8B", "--rate", "30", "--workers", "1"),
        *("--slo", "ttft_p90<500ms,tpot_p90<30ms", "--hardware", "H100:1,L4:1", "--report", "size.html"),
        *("--workload", "requests.jsonl", "--max-requests", "300", "-o", "a directory"),
        *("--profile-root", "profiles"),
    ]
    text = call(*question)
    of_terminal, of_page = commands(text), commands_of_page("size.html")
    assert len(of_terminal) == 2
    assert set(of_terminal) <= set(of_page)
    assert all(command.endswith(" --profile-root profiles") for command in of_page)
    for command in of_page:
        assert finished(run(command)) == 300


@pytest.mark.parametrize(
    "question",
    [
        (
            "capacity",
            "{cluster}",
            "--slo",
            "ttft_p90<1s,tpot_p90<90ms",
            "--max-requests",
            "100",
            "--seeds",
            "2",
        ),
        ("capacity", "{cluster}", "--slo", "ttft_p90<40ms", "--think-time", "1", "--max-requests", "150"),
        ("advise", "{cluster}"),
    ],
)
def test_capacity_and_advise_name_no_command_that_does_not_run(
    question: tuple[str, ...], repository: Path
) -> None:
    cluster = str(repository / PACKAGED)
    arguments = [one.format(cluster=cluster) for one in question]
    pages = [] if "--think-time" in question else ["--report", "page.html"]
    found = commands(call(*arguments, "--dataset", "requests.jsonl", *pages))
    found += commands_of_page("page.html") if pages else []
    for command in found:
        run(command)


def test_compare_names_no_command_that_does_not_run(repository: Path) -> None:
    for seqs in ("4", "8"):
        arguments = ("--dataset", "requests.jsonl", "--log-interval", "0", "--results", f"with-{seqs}")
        call("run", str(repository / PACKAGED), *arguments, "--max-num-seqs", seqs)
    found = commands(call("compare", "with-4", "with-8", "--report", "page.html"))
    for command in [*found, *commands_of_page("page.html")]:
        run(command)


def test_the_commands_of_demo_and_init() -> None:
    assert commands(call("demo")) == ["penstock init, then change its files"]
    text = call("init", "new")
    found = commands(text)
    assert [one.split()[1] for one in found] == ["run", "advise", "capacity", "explore"]
    # The files are to be changed: smaller ones are served in less time.
    Path("new/workload.jsonl").write_text(REQUESTS)
    study: dict[str, Any] = yaml.safe_load(Path("new/study.yaml").read_text())
    space: Mapping[str, Any] = {**study["space"], "hardware": "H100", "gpus": 1, "max_num_seqs": 128}
    small = {
        **study,
        "generate": {"num_requests": 60, "preset": "sharegpt"},
        "space": space,
        "max_requests": 120,
    }
    Path("new/study.yaml").write_text(yaml.safe_dump(small))
    for command in found:
        run(command)
    assert Path("report.html").exists()
