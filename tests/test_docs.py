"""The index of the documentation is complete."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_page_stands_in_the_index_once(repository: Path) -> None:
    docs = repository / "docs"
    listed = re.findall(
        r"^\| \[[\w -]+\]\(([^)#]+)\) \|", (docs / "README.md").read_text("utf-8"), re.MULTILINE
    )
    pages = sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md") if page != docs / "README.md")
    assert sorted(listed) == pages
