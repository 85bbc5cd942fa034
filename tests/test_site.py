"""The documentation: its site builds without a warning, its notebook runs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.registry import COMMANDS
from penstock.rendering.result import SimulationResult


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
