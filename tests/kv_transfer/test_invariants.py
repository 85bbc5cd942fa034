"""Laws of runs in which KV moves, that need no second opinion."""

from __future__ import annotations

import random
from array import array
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kv_clusters import cluster, instance
from penstock.engine.simulation import Simulation
from penstock.recording.records import REQUEST_COLUMNS
from penstock.spec.load import load_cluster
from penstock.validate.engines import penstock_disaggregated, penstock_offloading
from penstock.workload.workload import Call, Columns, Workload
from reference.kv_cases import random_disaggregation, random_offloading

SEEDS = st.integers(0, 10**6)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_no_block_is_lost_and_no_token_comes_before_its_kv(seed: int):
    setup = random_disaggregation(random.Random(seed))
    result = penstock_disaggregated(setup)
    for one in setup.instances:
        assert result.instances[one.name].free_blocks_end == one.num_gpu_blocks - 1
    ends: dict[int, int] = {}
    for transfer in result.transfers:
        ends[transfer["req_id"]] = max(ends.get(transfer["req_id"], 0), transfer["end_ns"])
    for request, row in result.requests.items():
        if request in ends and row["decode"] is not None:
            first = result.instances[row["decode"]].requests[request]["first_token_ns"]
            assert first is None or first >= ends[request]


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_a_prompt_is_read_once_and_by_every_stage(seed: int):
    setup = random_disaggregation(random.Random(seed))
    stages = {each.name: len(each.cost.hops) + 1 for each in setup.instances}
    block_size = {each.name: each.options.block_size for each in setup.instances}
    reads: dict[int, list[tuple[str, int, int]]] = {}
    for row in penstock_disaggregated(setup).transfers:
        reads.setdefault(row["req_id"], []).append((row["decode"], row["decode_stage"], row["blocks"]))
    prompts = {request.index: request.input_tokens for request in setup.requests}
    for request, found in reads.items():
        decode = found[0][0]
        assert sorted(stage for _, stage, _ in found) == list(range(stages[decode]))
        (blocks,) = {blocks for _, _, blocks in found}
        assert 1 <= blocks <= -(-prompts[request] // block_size[decode])


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_a_tier_moves_whole_chunks_and_loses_no_block(seed: int):
    setup = random_offloading(random.Random(seed))
    result = penstock_offloading(setup)
    assert result.free_blocks_end == setup.num_gpu_blocks - 1
    assert all(row["finish_ns"] is not None for row in result.requests.values())
    for job in result.jobs:
        assert job["reported_ns"] >= max(end for _, _, _, end in job["stages"])
        assert len(job["stages"]) == len(setup.cost.hops) + 1
        if job["kind"] == "store":
            assert job["gpu_blocks"] == len(job["cpu_chunks"]) * setup.tier.blocks_per_chunk


SIDES = st.fixed_dictionaries(
    {
        "num_gpu_blocks": st.sampled_from([90, 200]),
        "pp_size": st.sampled_from([1, 2]),
        "max_num_batched_tokens": st.sampled_from([256, 1024]),
        "async_scheduling": st.booleans(),
        "enable_prefix_caching": st.booleans(),
    }
)
PROMPTS = st.lists(
    st.tuples(st.integers(0, 200_000_000), st.integers(1, 900), st.integers(1, 30), st.integers(0, 2)),
    min_size=1,
    max_size=10,
)


@settings(deadline=None, max_examples=25)
@given(
    SIDES,
    SIDES,
    PROMPTS,
    st.sampled_from(["pull", "push"]),
    st.sampled_from([None, 0, 300]),
    st.lists(st.tuples(st.integers(0, 300_000_000), st.integers(0, 9)), max_size=3),
    st.sampled_from([None, None, {}, {"shared": "node"}, {"load": "sync", "cpu_gb": 0.1}]),
)
def test_whatever_happens_to_a_cluster_its_blocks_are_free_and_its_bytes_are_counted(
    prefill: dict[str, Any],
    decode: dict[str, Any],
    prompts: list[tuple[int, int, int, int]],
    kind: str,
    longest_local: int | None,
    aborts: list[tuple[int, int]],
    tier: dict[str, Any] | None,
) -> None:
    columns = Columns()
    for at_ns, tokens, answer, family in sorted(prompts):
        columns.add(
            at_ns, Call(tokens, answer, input_ids=array("i", range(family * 1000, family * 1000 + tokens)))
        )
    transfer = {"kind": kind} | ({"kv_lease_duration": 1} if kind == "pull" else {})
    if longest_local is not None:
        transfer["max_local_prefill_length"] = longest_local
    config = cluster(
        instance(pd_type="prefill", kv_offloading=tier, **prefill),
        instance(pd_type="decode", kv_offloading=tier, **decode),
        kv_transfer=transfer,
    )
    simulation = Simulation(load_cluster(config), Workload(columns, "random"))
    for at_ns, index in sorted(aborts):
        simulation.advance(max(at_ns, simulation.now_ns))
        simulation.abort(index)
    record = simulation.run()
    ended = len(record.requests) + len(record.rejections) + len(record.abortions)
    assert ended == len(prompts)
    for replica in simulation.instances:
        status = replica.scheduler.status()
        assert status.free_blocks == status.usable_blocks
        assert replica.outstanding_tokens == 0
    block_bytes = sum(stage.kv_bytes_per_block for stage in record.deployments[1].memory.stages)
    for row in record.requests.values().tolist():
        moved = [one for one in record.transfers if one.request == row[0]]
        assert row[REQUEST_COLUMNS.index("first_token_ns")] >= max((one.end_ns for one in moved), default=0)
        needed = -(-row[REQUEST_COLUMNS.index("input_tokens")] // 16) * block_bytes
        moved_bytes = sum(one.size_bytes for one in moved)
        assert moved_bytes <= needed + len(moved)
        if moved and not decode["enable_prefix_caching"]:
            assert moved_bytes >= needed
