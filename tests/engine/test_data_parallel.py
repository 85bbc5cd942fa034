"""Clusters with data-parallel ranks of a mixture of experts: what a user's run shows of the lock-step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.accounting.stage_spans import StageCause
from penstock.api import Run
from penstock.engine.build import BuiltInstance
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.protocol import EngineScheduler
from penstock.scheduler.vllm import VllmScheduler
from penstock.spec.load import load_cluster
from penstock.workload.workload import Workload

LLMSERVINGSIM = (
    "single_node_moe_dp_ep_instance",
    "single_node_moe_dp_tp_instance",
    "single_node_moe_dp_pp_instance",
    "single_node_moe_dp_tp_pp_instance",
    "dual_node_moe_dp_ep_intra_inter_instance",
)


def cluster(*instances: dict[str, Any], **changes: Any) -> dict[str, Any]:
    common = {
        "model_name": "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "hardware": "RTXPRO6000",
        "npu_mem": {"mem_size": 96, "mem_bw": 1597, "mem_latency": 0},
        "tp_size": 1,
    }
    entries = [common | changes | each for each in instances or ({},)]
    return {
        "num_nodes": 1,
        "link_bw": 64,
        "link_latency": 5000,
        "nodes": [{"num_instances": len(entries), "instances": entries}],
    }


def workload(folder: Path, count: int, gap_ns: int, output: int = 40) -> Path:
    path = folder / "workload.jsonl"
    rows = [
        {"arrival_time_ns": index * gap_ns, "input_toks": 100 + 7 * index, "output_toks": output + index % 5}
        for index in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pp_size": 2},
        {"async_scheduling": True},
        {"pp_size": 2, "async_scheduling": True},
        {"prefill_schedule_interval": 4},
        {"max_num_seqs": 2},
        {"data_parallel_lb": "hybrid", "data_parallel_size_local": 2},
    ],
)
def test_every_request_finishes_and_every_nanosecond_has_a_cause(tmp_path: Path, options: dict[str, Any]):
    result = penstock.simulate(
        cluster(data_parallel_size=4, **options), workload(tmp_path, count=12, gap_ns=30_000_000)
    )
    assert result.summary.requests.finished == 12
    bubbles = result.bubbles()
    causes = [f"{cause.name.lower()}_ns" for cause in StageCause]
    assert (bubbles.select(causes).sum_horizontal() == bubbles["window_ns"]).all()
    assert bubbles["dummy_ns"].sum() > 0


def test_a_rank_without_requests_runs_dummies_as_long_as_another_has_one(tmp_path: Path):
    result = penstock.simulate(cluster(data_parallel_size=2), workload(tmp_path, count=1, gap_ns=0))
    bubbles = result.bubbles()
    assert bubbles["busy_ns"].to_list() == [bubbles["window_ns"][0], 0]
    assert bubbles["dummy_ns"].to_list() == [0, bubbles["window_ns"][0]]
    told = " ".join(note for total in result.record.totals for note in total.notes)
    # One prefill and 39 decodes; a wave ends at a multiple of 16 forwards.
    assert "rank 1 of 2: 48 of 48 forwards were dummy batches" in told
    assert "rank 0 of 2: 8 of 48 forwards were dummy batches" in told


def test_both_paths_of_the_scheduler_and_a_second_run_give_the_same(tmp_path: Path):
    dataset = workload(tmp_path, count=20, gap_ns=5_000_000)
    config = cluster(data_parallel_size=3, max_num_seqs=4)
    scenario = penstock.load_scenario(config, dataset, {})
    exact = replace(scenario, options=replace(scenario.options, exact_only=True))
    first, second, by_request = (Run(each).run() for each in (scenario, scenario, exact))
    for other in (second, by_request):
        assert (other.record.requests.values() == first.record.requests.values()).all()
        assert other.bubbles().equals(first.bubbles())


def test_a_group_by_name_is_balanced_by_the_router_and_an_instance_s_ranks_by_its_front_ends(tmp_path: Path):
    dataset = workload(tmp_path, count=6, gap_ns=200_000_000, output=4)
    named = penstock.simulate(cluster({"dp_group": "A"}, {"dp_group": "A"}, ep_size=2), dataset, router="RR")
    own = penstock.simulate(cluster(data_parallel_size=2, api_server_count=1), dataset)
    assert named.record.requests.values()[:, 1].tolist() == [0, 1, 0, 1, 0, 1]
    # One front-end turns the rank it begins with after every request.
    assert own.record.requests.values()[:, 1].tolist() == [0, 1, 0, 1, 0, 1]


def test_ranks_wait_for_the_slowest_on_every_stage(tmp_path: Path):
    result = penstock.simulate(
        cluster(data_parallel_size=2, pp_size=2),
        workload(tmp_path, count=8, gap_ns=40_000_000),
        record="stages",
    )
    stages = result.stages
    assert len(stages)
    # Real steps and dummies: whatever one rank runs on a stage, the other runs at the same time.
    together = stages.group_by("stage", "start_ns", "end_ns").len()
    shared = together.filter(together["len"] == 2)
    assert len(shared) > 0.8 * len(together)
    assert set(together["len"]) == {1, 2}


@pytest.mark.parametrize("name", LLMSERVINGSIM)
def test_llmservingsim_s_groups_run_as_they_are(name: str, shared_dir: Path, repository: Path):
    configs = shared_dir / "data" / "llmservingsim" / "configs" / "cluster"
    result = penstock.simulate(configs / f"{name}.json", repository / "workloads" / "example_trace.jsonl")
    assert result.summary.requests.finished == 100


@pytest.mark.parametrize(
    ("config", "where", "message"),
    [
        (
            cluster(data_parallel_size=4, data_parallel_size_local=2),
            "data_parallel_size_local",
            "needs data_parallel_lb 'hybrid'",
        ),
        (
            cluster(data_parallel_size=4, data_parallel_lb="hybrid", data_parallel_size_local=3),
            "data_parallel_size_local",
            "must divide the 4 ranks",
        ),
        (cluster(data_parallel_size=2, blocking_sends=True), "blocking_sends", "ranks in lock-step"),
        (
            cluster({"dp_group": "A"}, {"dp_group": "A", "max_num_seqs": 7}),
            "instances[1]",
            "scheduler or balancing options differ",
        ),
        (
            cluster(data_parallel_size=2, data_parallel_lb="internal", model_name="Qwen/Qwen3-32B"),
            "data_parallel_lb",
            "needs a mixture of experts",
        ),
    ],
)
def test_what_a_group_cannot_be_is_said(config: dict[str, Any], where: str, message: str):
    with pytest.raises(UserError) as caught:
        load_cluster(config)
    told = [f"{problem.where} {problem.message}" for problem in caught.value.problems]
    assert any(where in line and message in line for line in told), told


def own_schedulers(cadence: int) -> tuple[int, int]:
    """How many schedulers of its own a run made, and how many of its requests they served."""
    made: list[VllmScheduler] = []

    def own(built: BuiltInstance) -> EngineScheduler:
        blocks = built.deployment.memory.num_gpu_blocks
        made.append(make_scheduler(built.spec.scheduler, built.spec.pp_size, blocks))
        return Foreign(made[-1])

    config = load_cluster(cluster(data_parallel_size=2, prefill_schedule_interval=cadence))
    load = Workload.from_columns([0, 1000], [100, 200], [5, 5], "test")
    record = Simulation(config, load, scheduler_for=own).run()
    assert len(record.requests) == 2
    return len(made), sum(one.cohort_turns for one in made)


class Foreign:
    """vLLM's scheduler as far as the engine's protocol goes."""

    def __init__(self, inner: VllmScheduler) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_ranks_run_with_a_scheduler_of_ones_own():
    made, turns = own_schedulers(cadence=1)
    assert made == 2
    assert turns > 0


def test_a_cadence_needs_a_scheduler_that_holds_prefills_back():
    with pytest.raises(UserError, match="prefill_schedule_interval: needs vLLM's scheduler: Foreign"):
        own_schedulers(cadence=4)
