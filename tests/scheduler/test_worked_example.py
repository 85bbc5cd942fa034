"""The examples of docs/worked-example.md and docs/specification.md, run as they stand there."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

SHOWN = {
    "worked-example.md": "cohort.finish_at == {6: [a], 4: [b]}",
    "specification.md": "blocking_sends=True",
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_examples_of_a_page_give_what_it_says(repository: Path, name: str) -> None:
    page = repository / "docs" / name
    examples = doctest.DocTestParser().get_examples(page.read_text(encoding="utf-8"))
    assert any(SHOWN[name] in example.source for example in examples)
    outcome = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert outcome.attempted == len(examples)
    assert outcome.failed == 0
