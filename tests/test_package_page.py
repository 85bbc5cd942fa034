"""What a package index shows: it stands alone, and its commands run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def _page(repository: Path) -> str:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    return (repository / project["readme"]).read_text("utf-8")


def test_it_has_no_link_that_needs_the_repository(repository: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)|(?:href|src)=\"([^\"]+)\"", _page(repository))
    assert all((markdown or attribute).startswith("https://") for markdown, attribute in links)


@pytest.mark.parametrize("name", ["demo", "run", "init"])
def test_its_commands_run(repository: Path, tmp_path: Path, name: str) -> None:
    (line,) = re.findall(rf"^    penstock ({name}\b.*)$", _page(repository), re.MULTILINE)
    code = "from penstock.cli.main import main; main()"
    command = [sys.executable, "-c", code, *shlex.split(line)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
