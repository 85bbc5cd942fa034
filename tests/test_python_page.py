"""The examples of docs/python.md print what stands there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def test_the_examples_print_what_the_page_shows(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("page_tool", repository / "tools/update_python_page.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (repository / "docs/python.md").read_text(encoding="utf-8")
    monkeypatch.chdir(repository)
    assert "```text" in page
    assert tool.refreshed(page) == page
