"""The examples of docs/design.md, run as they stand there."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_the_examples_of_the_design_page_give_what_it_says(repository: Path) -> None:
    page = repository / "docs" / "design.md"
    examples = doctest.DocTestParser().get_examples(page.read_text(encoding="utf-8"))
    assert any("cohort.finish_at == {6: [a], 4: [b]}" in example.source for example in examples)
    outcome = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert outcome.attempted == len(examples)
    assert outcome.failed == 0
