"""LLMServingSim's data in ../shared, its results, and our runs of its configs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from upstream.runs import with_members

from penstock.api import simulate
from penstock.rendering.result import SimulationResult

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "llmservingsim"
Rows = dict[int, dict[str, str]]
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: LLMServingSim's data are not here")


def ours(
    config: str | dict[str, Any], workload: str = "example_trace", count: int = 10, **options: Any
) -> SimulationResult:
    """Our run of one of its configs, by name, or of one changed."""
    return simulate(
        config if isinstance(config, dict) else DATA / "configs" / "cluster" / f"{config}.json",
        DATA / "workloads" / f"{workload}.jsonl",
        num_reqs=count,
        profile_root=DATA / "perf",
        **options,
    )


def theirs(path: str) -> Rows:
    """A CSV of its own, by request."""
    with (DATA / path).open(encoding="utf-8") as file:
        return {int(row["request id"]): row for row in csv.DictReader(file)}


def gaps_ns(row: dict[str, str]) -> list[int]:
    """Its ITL list."""
    return json.loads(row["ITL"])


def compatible(config: str, **more: Any) -> dict[str, Any]:
    """A config of its own with every member that makes our models its."""
    data = json.loads((DATA / "configs" / "cluster" / f"{config}.json").read_text(encoding="utf-8"))
    return with_members(data, **more)
