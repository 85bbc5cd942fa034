"""What a package index shows stands alone. That its commands run: ``test_docs_commands.py``."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def _page(repository: Path) -> str:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    return (repository / project["readme"]).read_text("utf-8")


def test_it_has_no_link_that_needs_the_repository(repository: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)|(?:href|src)=\"([^\"]+)\"", _page(repository))
    assert all((markdown or attribute).startswith("https://") for markdown, attribute in links)
