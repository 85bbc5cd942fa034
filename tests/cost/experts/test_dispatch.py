from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from penstock.cost.experts.dispatch import Crossing
from penstock.cost.network import Link
from penstock.spec.layers import MoeMlp

NEAR, FAR = Link(450.0, 1000.0), Link(50.0, 5000.0)
MOE = MoeMlp(num_experts=256, experts_per_token=8, intermediate_size=2048, expert_groups=8, top_groups=4)
EIGHT = Crossing(
    backend="allgather_reducescatter",
    moe=MOE,
    hidden=7168,
    activation_bytes=2,
    ranks=8,
    tensor_ranks=1,
    nodes=1,
    sequence_parallel=False,
    inner=NEAR,
    outer=FAR,
)


def ns(crossing: Crossing, tokens: int, most: int) -> int:
    return int(crossing.total_ns(np.array([tokens]), np.array([most]))[0])


def test_all_gather_and_reduce_scatter_by_the_ring() -> None:
    row = 7168 * 2
    gathered = 7 * NEAR.message_ns(1024 * (row + 8 * 8) // 8)
    scattered = 7 * NEAR.message_ns(1024 * row // 8)
    assert ns(EIGHT, 1024, 128) == gathered + scattered


def test_two_nodes_gather_between_them_first() -> None:
    both = replace(EIGHT, ranks=16, nodes=2)
    row = 7168 * 2
    parts = (1024 * (row + 64), 1024 * row)
    expected = sum(FAR.message_ns(part // 16) + 7 * NEAR.message_ns(part // 8) for part in parts)
    assert ns(both, 1024, 64) == expected


def test_ranks_that_hold_the_same_tokens_gather_from_their_peers_alone() -> None:
    """Without expert parallelism: four replicas of two ranks, each rank in a ring of four."""
    split = replace(EIGHT, tensor_ranks=2)
    row = 7168 * 2
    assert ns(split, 1024, 256) == 3 * NEAR.message_ns(1024 * (row + 64) // 4) + 3 * NEAR.message_ns(
        1024 * row // 4
    )


def test_sequence_parallel_ranks_gather_their_tokens_again() -> None:
    own = replace(EIGHT, tensor_ranks=2, sequence_parallel=True)
    assert ns(own, 1024, 256) == ns(EIGHT, 1024, 128) + NEAR.message_ns(256 * 7168 * 2 // 2)


def test_all_gather_grows_with_ranks_and_pairs_do_not() -> None:
    """Each rank with 64 tokens: eight times the ranks gather eight times the rows; low latency sends as many pairs."""
    pairs = replace(EIGHT, backend="deepep_low_latency")
    many = {"ranks": 64, "nodes": 8}
    assert ns(replace(EIGHT, **many), 64 * 64, 64) > 4 * ns(EIGHT, 8 * 64, 64)
    assert ns(replace(pairs, outer=NEAR, **many), 64 * 64, 64) < 1.3 * ns(pairs, 8 * 64, 64)


def test_deepep_on_one_node_meets_vllm_s_own_calls() -> None:
    """8 H100, 7168 wide, top 8, 256 experts (``moe_a2a_perf`` of AIConfigurator 0.12.0): low latency 114 + 97 us at 128
    tokens, 58 + 44 at 32; high throughput 292 + 132 at 128 and 4.0 + 6.5 ms at 16384."""
    open_group = replace(MOE, expert_groups=1, top_groups=1)
    low = replace(EIGHT, backend="deepep_low_latency", moe=open_group)
    high = replace(EIGHT, backend="deepep_high_throughput", moe=open_group)
    assert ns(low, 8 * 128, 128) / 1000 == pytest.approx(114 + 97, rel=0.35)
    assert ns(low, 8 * 32, 32) / 1000 == pytest.approx(58 + 44, rel=0.35)
    assert ns(high, 8 * 128, 128) / 1000 == pytest.approx(292 + 132, rel=0.35)
    assert ns(high, 8 * 16384, 16384) / 1000 == pytest.approx(4031 + 6522, rel=0.35)


def test_a_router_that_picks_groups_limits_the_nodes_of_a_token() -> None:
    limited = replace(EIGHT, backend="deepep_high_throughput", ranks=64, nodes=8, outer=Link(5.0, 0.0))
    free = replace(limited, moe=replace(MOE, expert_groups=1, top_groups=1))
    assert ns(limited, 64 * 4096, 4096) < 0.75 * ns(free, 64 * 4096, 4096)
