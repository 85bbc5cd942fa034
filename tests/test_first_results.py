"""The script behind docs/first-results.md serves every deployment."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def test_every_deployment_has_its_row(repository: Path, shared_dir: Path) -> None:
    spec = importlib.util.spec_from_file_location("first_results", repository / "examples/first_results.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = script.table(shared_dir / "data/llmservingsim", num_requests=5).splitlines()
    page = (repository / "docs/first-results.md").read_text(encoding="utf-8").splitlines()
    shown = [line for line in page if line.startswith("|")]
    assert [row.split("|")[:3] for row in rows] == [row.split("|")[:3] for row in shown]
    assert all(" - " not in row and "nan" not in row for row in rows[2:])
