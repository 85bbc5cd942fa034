"""The code of docs/extending.md is the code that the tests here run."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

TESTS = (Path(__file__).parent / "test_extending.py").read_text("utf-8")
SHOWN_IN_PART = {"StaticBatching"}


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs/extending.md").read_text("utf-8")


def test_all_code_of_the_page_stands_in_the_tests(page: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == page.count("```python")
    for block in blocks:
        for module, names in re.findall(r"^from (\S+) import (.*)$", block, re.MULTILINE):
            (tested,) = re.findall(rf"^from {re.escape(module)} import (.*)$", TESTS, re.MULTILINE)
            assert set(names.split(", ")) <= set(tested.split(", ")), module
        code = re.sub(r"^from .*\n", "", block, flags=re.MULTILINE).strip("\n")
        assert code in TESTS or textwrap.indent(code, "    ") in TESTS, code


def test_the_page_shows_what_the_tests_add(page: str) -> None:
    for node in ast.parse(TESTS).body:
        if isinstance(node, ast.ClassDef) and node.name not in SHOWN_IN_PART:
            source = ast.get_source_segment(TESTS, node)
            assert source is not None
            assert source in page, node.name
