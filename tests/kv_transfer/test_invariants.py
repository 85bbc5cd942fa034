"""Laws of runs in which KV moves, that need no second opinion."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.validate.engines import penstock_disaggregated, penstock_offloading
from reference.kv_cases import random_disaggregation, random_offloading

SEEDS = st.integers(0, 10**6)


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_no_block_is_lost_and_no_token_comes_before_its_kv(seed: int):
    setup = random_disaggregation(random.Random(seed))
    result = penstock_disaggregated(setup)
    for instance in setup.instances:
        assert result.instances[instance.name].free_blocks_end == instance.num_gpu_blocks - 1
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
