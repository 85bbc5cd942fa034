"""The index of the documentation is complete, and the map shows the rooms as they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path


def test_every_page_stands_in_the_index_once(repository: Path) -> None:
    docs = repository / "docs"
    listed = re.findall(
        r"^\| \[[\w -]+\]\(([^)#]+)\) \|", (docs / "README.md").read_text("utf-8"), re.MULTILINE
    )
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md") if page != docs / "README.md")
    assert sorted(listed) == pages


def test_the_map_has_the_layers_of_the_import_contract(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    page = (repository / "docs/design.md").read_text("utf-8")
    shown = re.findall(r"^    ((?:serving|penstock\.\w+)(?: \| penstock\.\w+)*)$", page, re.MULTILINE)
    assert len(shown) == len(contract["layers"])
    for on_the_page, layer in zip(shown, contract["layers"], strict=True):
        assert set(on_the_page.split(" | ")) <= set(layer.split(" | "))


def test_files_named_on_the_pages_for_developers_exist(repository: Path) -> None:
    for name in ("design", "specification", "reading-guide", "extending"):
        text = (repository / f"docs/{name}.md").read_text("utf-8")
        for path in re.findall(r"`((?:\w+/)+\w*(?:\.\w+)?)[`:]", text):
            places = (repository / path, repository / "src/penstock" / path)
            assert any(place.exists() for place in places), f"docs/{name}.md names {path}"
