"""docs/combinations.md says what the fuzz draws."""

from __future__ import annotations

import random
import re
from pathlib import Path

from .cases import random_cluster
from .combinations import REFUSED


def tables(page: Path) -> list[list[str]]:
    """The first column of each table on schedules and clocks, without its head."""
    text = page.read_text(encoding="utf-8").partition("\n## Modes")[0]
    return [
        [line.split("|")[1].strip() for line in block.splitlines()[2:]]
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]


def test_the_page_names_what_is_drawn_and_what_is_not_combined(repository: Path):
    features, *rest = tables(repository / "docs/combinations.md")
    drawn = {
        name for seed in range(300) for each in random_cluster(random.Random(seed)).combines for name in each
    }
    assert drawn == set(features)
    assert {frozenset(row.split(", ")) for table in rest for row in table} == set(REFUSED)
