"""All cluster configs that LLMServingSim bundles, with the options that its documentation gives them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from penstock.api import Run, load_scenario
from penstock.rendering.request_csv import write_request_csv

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "llmservingsim"
CONFIGS = sorted((DATA / "configs" / "cluster").glob("*.json"))
REQUESTS = 3

if not CONFIGS:
    pytest.skip(f"no {DATA}: LLMServingSim's configs are not here", allow_module_level=True)

OPTIONS: dict[str, dict[str, Any]] = {
    "single_node_pim_instance": {"enable_attn_offloading": True, "enable_sub_batch_interleaving": True}
}
NO_PROFILE = {"rtx4090_tp2_instance", "single_node_single_instance_H100"}
"""LLMServingSim cannot run them: it has no profile. A fit or a derived degree stands in, and says so."""


def test_there_are_all_of_them() -> None:
    assert len(CONFIGS) == 27


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_runs_and_nothing_is_ignored(config: Path, tmp_path: Path) -> None:
    options = {"num_reqs": REQUESTS, "profile_root": DATA / "perf", **OPTIONS.get(config.stem, {})}
    scenario = load_scenario(config, DATA / "workloads" / "example_trace.jsonl", options)
    assert not [notice for notice in scenario.cluster.notices if "no effect" in notice]
    run = Run(scenario)
    result = run.run()
    write_request_csv(tmp_path / "run.csv", result.record)
    with (tmp_path / "run.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["request id"]) for row in rows) == list(range(REQUESTS))
    basis = " ".join(line for one in run.deployments for line in one.basis)
    if config.stem in NO_PROFILE:
        assert "packaged fit" in basis or "roofline" in basis or "not profiled, derived" in basis
    else:
        assert "measured profile" in basis
    energy = result.energy
    assert energy is not None
    assert energy.requests_j is not None
    assert energy.unassigned_j is not None
    assert energy.requests_j.sum() + energy.unassigned_j == pytest.approx(energy.total_j, rel=1e-9)
