"""The example in the repository is what its README says made it, and describes itself."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from penstock.cli.workload import app


def test_the_readme_s_command_makes_the_example(repository: Path, tmp_path: Path) -> None:
    folder = repository / "workloads"
    (command,) = re.findall(
        r"^    penstock workload (generate .*)$", (folder / "README.md").read_text(), re.MULTILINE
    )
    arguments = shlex.split(command)
    arguments[arguments.index("-o") + 1] = str(tmp_path / "again.jsonl")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.jsonl").read_bytes() == (folder / "example_trace.jsonl").read_bytes()


def test_info_counts_the_example(repository: Path) -> None:
    trace = str(repository / "workloads/example_trace.jsonl")
    facts = json.loads(CliRunner().invoke(app, ["info", trace, "--json"]).stdout)
    assert (facts["requests"], facts["sessions"], facts["token_ids"]) == (100, 0, False)
    assert facts["input_tokens"]["max"] <= 1024
    assert CliRunner().invoke(app, ["info", trace]).stdout.splitlines()[1].split() == ["requests", "100"]


def test_convert_writes_lines_that_read_as_the_original(repository: Path) -> None:
    trace = repository / "workloads/example_trace.jsonl"
    result = CliRunner().invoke(app, ["convert", str(trace), "--num-reqs", "10"])
    assert result.stdout == "".join(trace.read_text().splitlines(keepends=True)[:10])


def test_an_unknown_preset_is_the_user_s_mistake() -> None:
    result = CliRunner().invoke(app, ["generate", "-n", "1", "--preset", "sharegtp"])
    assert result.exit_code == 2
    assert "did you mean 'sharegpt'?" in result.stderr
    result = CliRunner().invoke(app, ["generate", "-n", "1"])
    assert result.exit_code == 2
    assert "--input-toks: missing" in result.stderr
