"""The documentation: its site builds without a warning, its notebook runs, its commands are those of the program."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.cli.registry import COMMANDS, load_command
from penstock.rendering.result import SimulationResult
from serving.flags import OPTIONS

NOT_RUN: dict[str, str] = {
    "$PENSTOCK_DATA": "needs data that is not part of Penstock",
    "penstock calibrate": "needs a benchmark; tests/cli/test_calibrate.py runs it on one made there",
    "penstock validate": "needs a recording or a benchmark; tests/validate and tests/cli run it",
    "penstock profile": "needs profiles or a GPU; tests/profiling runs it",
    "penstock serve": "serves until it is stopped; its tests run it",
    "penstock explore": "minutes; tests/explore runs small searches",
    "penstock size": "minutes; tests/cli/test_size.py runs a small one",
    "penstock capacity": "a minute; tests/cli/test_capacity.py runs small ones",
    "penstock advise": "a run for each change; tests/explore/test_advise.py runs it",
}
"""Beginnings or parts of commands that no test runs as they stand, and why. Their options are checked all the same."""

COMMAND = re.compile(r"^(?:    )?(penstock [a-z].*)$", re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    """Every command line of a page, continued lines joined, comments left out."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"(?ms)^```(?:sh|console)?\n(.*?)^```", text)
    blocks += re.findall(r"(?m)^    penstock .*$", text)
    found = [line for block in blocks for line in COMMAND.findall(block)]
    return [re.sub(r"\s+#.*$", "", line).strip() for line in found]


def all_commands(repository: Path) -> list[tuple[str, str]]:
    pages = [repository / "README.md", *sorted((repository / "docs").glob("*.md"))]
    return [(page.name, command) for page in pages for command in commands_of(page)]


def test_every_command_of_the_pages_has_the_program_s_options(repository: Path) -> None:
    found = all_commands(repository)
    assert len(found) > 30
    wrong = [f"{page}: {command}: {why}" for page, command in found if (why := _fault(command)) is not None]
    assert wrong == []


def _fault(command: str) -> str | None:
    """An option or a command that the program does not have, or None."""
    words = shlex.split(command.replace("…", "x").replace("&&", ";").partition(";")[0])[1:]
    if words[0] not in COMMANDS:
        return None if words[0].startswith("-") else f"no command {words[0]}"
    target: Any = load_command(words[0])
    rest = words[1:]
    while rest and rest[0] in getattr(target, "commands", ()):
        target, rest = target.commands[rest[0]], rest[1:]
    known = {name for parameter in target.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"} | {option.flag for option in OPTIONS}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    unknown = [word for word in given if word not in known]
    return f"no option {unknown}" if unknown else None


def test_the_commands_of_the_tutorials_run(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for page in ("README.md", "docs/tutorials.md"):
        for command in commands_of(repository / page):
            if any(part in command for part in NOT_RUN):
                continue
            with pytest.raises(SystemExit) as left:
                main(shlex.split(command)[1:])
            assert left.value.code in (0, None), (command, capsys.readouterr().err)
            ran += 1
    assert ran >= 7
    assert Path("compare.html").exists()


def test_the_readme_lists_every_command_and_no_other(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"`penstock (\w+)`", "\n".join(line for line in text.splitlines() if line.startswith("|"))
    )
    assert sorted(listed) == sorted(COMMANDS)


def test_the_notebook_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((repository / "examples/first_run.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(repository / "examples")
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        code = "".join(cell["source"])
        for written in ("report.html", "trace.json.gz"):
            code = code.replace(f'"{written}"', repr(str(tmp_path / written)))
        exec(compile(code, "first_run.ipynb", "exec"), names)
    assert isinstance(names["result"], SimulationResult)
    assert (tmp_path / "report.html").exists()
    assert (tmp_path / "trace.json.gz").exists()


def test_the_site_builds_without_a_warning(repository: Path, tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"no {package}: pip install -e '.[docs]'")
    command = [sys.executable, "tools/build_site.py", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    front = (tmp_path / "site/index.html").read_text(encoding="utf-8")
    for heading in ("What it is", "Why trust it", "How to start"):
        assert heading in front
    assert all(f'href="{page.stem}.html"' in front for page in (repository / "docs").glob("[a-z]*.md"))
    assert "simulate" in (tmp_path / "site/api.html").read_text(encoding="utf-8")
