from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from penstock.accounting.stage_spans import StageCause
from penstock.api import load_scenario
from penstock.cli.advise import app
from penstock.explore.advise import Advice, AdviceTable, advise, balanced_layers
from penstock.explore.candidate import Candidate
from penstock.spec.cluster import ClusterSpec
from penstock.units import GIB


def cluster(*, link_bw: float = 64, **instance: Any) -> dict[str, Any]:
    """Llama-3.1-8B on four H100s in a row, with a fast link and an engine that does not sleep."""
    return {
        "num_nodes": 1,
        "link_bw": link_bw,
        "link_latency": 1000,
        "nodes": [
            {
                "num_instances": 1,
                "instances": [
                    {
                        "model_name": "meta-llama/Llama-3.1-8B",
                        "hardware": "H100",
                        "npu_mem": {"mem_size": 80, "mem_bw": 3350, "mem_latency": 0},
                        "num_npus": 4,
                        "tp_size": 1,
                        "pp_size": 4,
                        "pd_type": None,
                        "engine_idle_sleep_ns": 0,
                        "engine_overhead": "none",
                        **instance,
                    }
                ],
            }
        ],
    }


def advice(
    config: dict[str, Any], tmp_path: Path, requests: list[tuple[int, int]], **options: Any
) -> tuple[AdviceTable, StageCause]:
    """The advice for requests (prompt, answer) that all arrive at once, and the largest bubble as it is."""
    table = table_of(config, tmp_path, requests, **options)
    return table, StageCause[table.shares()[0][0].upper()]


def table_of(
    config: dict[str, Any], tmp_path: Path, requests: list[tuple[int, int]], **options: Any
) -> AdviceTable:
    """The advice for requests that all arrive at once."""
    lines = [json.dumps({"input_toks": i, "output_toks": o, "arrival_time_ns": 0}) for i, o in requests]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    scenario = load_scenario(str(tmp_path / "cluster.json"), str(tmp_path / "requests.jsonl"), options)
    return advise(scenario.cluster, scenario.workload, scenario.options)


def best(table: AdviceTable) -> Advice:
    assert table.rows[0].score > 0.02
    return table.rows[0]


def test_a_slow_third_stage_wants_another_partition(tmp_path: Path) -> None:
    slow = cluster(stage_hardware=["H100", "H100", "A6000", "H100"])
    table, _ = advice(slow, tmp_path, [(1000, 20)] * 60)
    busy = table.baseline.busy_ns[0]
    assert max(range(4), key=lambda stage: busy[stage]) == 2
    assert table.baseline.bubbles.ns[0][3, StageCause.IMBALANCE] > 0
    row = best(table)
    assert row.knob == "partition"
    assert row.outcome is not None
    assert row.outcome.deployments[0].layers[2] < 8
    assert max(row.outcome.busy_ns[0]) < 0.8 * max(busy)


def test_a_slow_link_wants_a_faster_one(tmp_path: Path) -> None:
    table, largest = advice(cluster(link_bw=0.25), tmp_path, [(1000, 20)] * 40)
    assert largest is StageCause.TRANSFER
    assert best(table).knob == "link"


def test_a_tiny_kv_pool_wants_memory(tmp_path: Path) -> None:
    table, largest = advice(cluster(num_gpu_blocks=100), tmp_path, [(500, 100)] * 30)
    assert largest is StageCause.MEMORY
    assert best(table).knob == "KV memory"


def test_one_request_at_a_time_wants_fewer_stages(tmp_path: Path) -> None:
    table, largest = advice(cluster(), tmp_path, [(500, 200)])
    assert largest is StageCause.DEPENDENCY
    assert table.baseline.bubbles.share(StageCause.DEPENDENCY) == pytest.approx(0.75, abs=0.04)
    assert best(table).knob == "parallelism"


def test_few_sequences_allowed_want_more(tmp_path: Path) -> None:
    table, largest = advice(cluster(), tmp_path, [(100, 100)] * 60, max_num_seqs=2)
    assert largest is StageCause.SEQS
    assert best(table).knob == "max_num_seqs"


def test_every_change_is_there_once_and_the_best_comes_first(tmp_path: Path) -> None:
    table, _ = advice(cluster(), tmp_path, [(300, 10)] * 10)
    assert len({(row.knob, row.change) for row in table.rows}) == len(table.rows)
    scores = [row.score for row in table.rows]
    assert scores == sorted(scores, reverse=True)
    assert sum(share for _, share, _ in table.shares()) == pytest.approx(
        table.baseline.bubbles.bubble_share()
    )


def test_a_change_that_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(given: ClusterSpec, *_: Any) -> Iterator[Candidate]:
        instances = tuple(replace(one, memory_bytes=GIB) for one in given.instances)
        yield Candidate("less memory", "1 GiB", (), replace(given, instances=instances))

    monkeypatch.setattr("penstock.explore.advise.single_changes", no_room)
    table, _ = advice(cluster(), tmp_path, [(300, 10)] * 4)
    assert table.rows[-1].knob == "less memory"
    assert "GiB" in (table.rows[-1].failure or "")
    assert table.rows[-1].outcome is None


def test_knobs_that_come_to_the_same_are_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(given: ClusterSpec, *_: Any) -> Iterator[Candidate]:
        (one,) = given.instances
        few = replace(given, instances=(replace(one, scheduler=replace(one.scheduler, max_num_seqs=2)),))
        yield Candidate("places", "2 of them", (), few)
        yield Candidate("link", "as it is", (), given)
        yield Candidate("batches", "of 2", (), few)

    monkeypatch.setattr("penstock.explore.advise.single_changes", twice)
    text = told(cluster(), tmp_path, [(300, 10)] * 8)
    (row,) = [line for line in text.splitlines() if "2 of them" in line]
    assert row.split()[:3] == ["places", "or", "batches"]
    assert row.endswith("2 of them; or of 2")
    assert "no difference: as it is" in text


def told(config: dict[str, Any], tmp_path: Path, requests: list[tuple[int, int]], *options: str) -> str:
    """What the command prints."""
    lines = [json.dumps({"input_toks": i, "output_toks": o, "arrival_time_ns": 0}) for i, o in requests]
    (tmp_path / "requests.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    arguments = [str(tmp_path / "cluster.json"), "--dataset", str(tmp_path / "requests.jsonl")]
    given = [part for option in options for part in ("--option", option)]
    outcome = CliRunner().invoke(app, [*arguments, *given])
    assert outcome.exit_code == 0
    return outcome.output


def test_changes_are_told_from_old_to_new_with_better_or_worse(tmp_path: Path) -> None:
    text = told(cluster(), tmp_path, [(100, 100)] * 60, "max_num_seqs=2")
    (row,) = [
        line for line in text.splitlines() if line.strip().startswith("max_num_seqs") and "2 to 8" in line
    ]
    assert re.search(r"[0-9.]+ s → [0-9.]+ (m?)s better", row)
    assert "%" not in row


def test_settings_of_a_knob_with_the_same_result_are_one_row(tmp_path: Path) -> None:
    # Sixteen requests fill neither 32 nor 64 places: only from 8 to 16 is there a difference.
    text = told(cluster(), tmp_path, [(100, 100)] * 16, "max_num_seqs=8")
    rows = [line for line in text.splitlines() if "max_num_seqs 8 to 16" in line]
    assert len(rows) == 1
    assert "; or max_num_seqs 8 to 32" in rows[0]


def test_layers_are_dealt_by_measured_time() -> None:
    layers = balanced_layers([80, 80, 160, 80], [8, 8, 8, 8])
    assert sum(layers) == 32
    assert max(n * time for n, time in zip(layers, (10, 10, 20, 10), strict=True)) == 100
    assert balanced_layers([10, 10], [16, 16]) == (16, 16)


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps(cluster()))
    request = {"input_toks": 50, "output_toks": 5, "arrival_time_ns": 0}
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n")
    arguments = [str(tmp_path / "cluster.json"), "--dataset", str(tmp_path / "requests.jsonl")]
    outcome = CliRunner().invoke(app, [*arguments, "--option", "max_num_seqs=64"])
    assert outcome.exit_code == 0
    assert "best first" in outcome.output
    outcome = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(outcome.output)["changes"][0]["gains"]["ttft_p99"] is not None


def test_a_mixture_of_experts_is_tried_with_other_ranks_and_other_places_of_experts(tmp_path: Path) -> None:
    shape = {"model_name": "mistralai/Mixtral-8x7B-v0.1", "tp_size": 4, "pp_size": 1}
    table = table_of(cluster(link_bw=400, **shape), tmp_path, [(200, 20)] * 24)
    rows = {row.knob: row for row in table.rows}
    ranks = rows["data parallelism"]
    assert ranks.change == "tp 4 x dp 1 to tp 2 x dp 2"
    assert ranks.outcome is not None
    assert [(one.tp_size, one.pp_size) for one in ranks.outcome.deployments] == [(2, 1), (2, 1)]
    assert rows["expert parallelism"].change == "experts shared out over 4 GPUs to 1"
    assert rows["expert parallelism"].outcome is not None
    in_ranks = {"model_name": "mistralai/Mixtral-8x7B-v0.1", "tp_size": 1, "pp_size": 1, "num_npus": 1}
    table = table_of(cluster(link_bw=400, **in_ranks, data_parallel_size=4), tmp_path, [(200, 20)] * 24)
    changes = [row.change for row in table.rows if row.knob == "data parallelism"]
    assert changes == ["tp 1 x dp 4 to tp 2 x dp 2"]
