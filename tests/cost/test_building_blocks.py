"""ASTRA-Sim's building blocks against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.cost.building_blocks import group_link
from penstock.cost.network import BlockLink, Link
from penstock.errors import UserError
from penstock.spec.cluster import LinkSpec

SIZE = 1 << 20


@pytest.mark.parametrize(("topology", "hops"), [("FullyConnected", 1), ("Ring", 1), ("Switch", 2)])
def test_rings_pay_the_hops_to_their_neighbour(topology: str, hops: int) -> None:
    link = BlockLink(2.0, 500, topology=topology)
    assert link.message_ns(1000) == hops * 500 + 500
    for ranks in (2, 3, 4, 8):
        message = int(hops * 500 + (SIZE // ranks) / 2.0)
        assert link.all_reduce_ns(SIZE, ranks) == 2 * (ranks - 1) * message
        assert link.all_gathers_ns(np.array([SIZE]), ranks).tolist() == [(ranks - 1) * message]


def test_the_default_block_is_the_plain_link() -> None:
    for ranks in (1, 2, 5, 8):
        assert BlockLink(3.0, 70).all_reduce_ns(SIZE, ranks) == Link(3.0, 70).all_reduce_ns(SIZE, ranks)


@pytest.mark.parametrize(("topology", "hops"), [("FullyConnected", 1), ("Ring", 4), ("Switch", 2)])
def test_direct_sends_to_all_at_once(topology: str, hops: int) -> None:
    link = BlockLink(2.0, 500, topology=topology, algorithm="direct")
    assert link.all_reduce_ns(SIZE, 8) == 2 * (hops * 500 + SIZE // 16)


def test_halving_and_doubling_at_growing_distances() -> None:
    whole = BlockLink(2.0, 500, algorithm="halvingDoubling")
    assert whole.all_reduce_ns(SIZE, 8) == 2 * (3 * 500 + (SIZE // 2 + SIZE // 4 + SIZE // 8) // 2)
    round_ = BlockLink(2.0, 500, topology="Ring", algorithm="halvingDoubling")
    assert round_.all_reduce_ns(SIZE, 8) - whole.all_reduce_ns(SIZE, 8) == 2 * 500 * (1 + 2 + 4 - 3)
    assert whole.all_reduce_ns(SIZE, 6) == Link(2.0, 500).all_reduce_ns(SIZE, 6)  # a ring


def test_all_goes_up_a_tree_and_down_again() -> None:
    tree = BlockLink(2.0, 500, topology="Switch", algorithm="doubleBinaryTree")
    assert tree.all_reduce_ns(SIZE, 8) == 2 * 3 * (2 * 500 + SIZE // 2)
    ring = BlockLink(2.0, 500, topology="Switch")
    assert tree.all_reduce_ns(SIZE, 6) == ring.all_reduce_ns(SIZE, 6)
    sizes = np.array([SIZE])
    assert tree.all_gathers_ns(sizes, 8).tolist() == ring.all_gathers_ns(sizes, 8).tolist()
    # Of few bytes a tree is faster, of many a ring.
    assert tree.all_reduce_ns(64, 8) < ring.all_reduce_ns(64, 8)
    assert tree.all_reduce_ns(SIZE, 8) > ring.all_reduce_ns(SIZE, 8)


def test_ranks_apart_communicate_over_the_dimensions_beyond() -> None:
    spec = LinkSpec(bandwidth_gb_per_s=(128, 16, 4), latency_ns=(500, 20_000, 50_000), sizes=(4, 2, 2))
    second = Link(16 * 2**30 / 1e9, 20_000)
    inner = Link(128 * 2**30 / 1e9, 500)
    assert group_link(spec, 2, "here", apart=4).all_reduce_ns(SIZE, 2) == second.all_reduce_ns(SIZE, 2)
    assert group_link(spec, 2, "here", apart=2).all_reduce_ns(SIZE, 2) == inner.all_reduce_ns(SIZE, 2)
    both = group_link(spec, 4, "here", apart=2).all_reduce_ns(SIZE, 4)
    assert both == inner.all_reduce_ns(SIZE, 2) + second.all_reduce_ns(SIZE // 2, 2)
    with pytest.raises(UserError, match="a group of 2 every 3 NPUs does not fill"):
        group_link(spec, 2, "here", apart=3)


def test_small_terms_of_the_ring() -> None:
    # An all-reduce of one token of Llama-3.1-8B over two ranks of an RTX PRO 6000.
    plain = Link(17.179869184, 20_000).all_reduce_ns(8192, 2)
    link = BlockLink(17.179869184, 20_000, endpoint_delay_ns=10, local_bytes_per_ns=1792)
    assert link.all_reduce_ns(8192, 2) == plain + 10 * 3 + 3 * (4096 // 1792)


def test_dimensions_reduce_what_the_inner_one_has_left() -> None:
    spec = LinkSpec(
        bandwidth_gb_per_s=(128, 16, 4),
        latency_ns=(500, 20_000, 50_000),
        sizes=(4, 2, 2),
        topologies=("Switch",) * 3,
    )
    found = group_link(spec, 16, "here").all_reduce_ns(SIZE, 16)
    parts = [
        BlockLink(bandwidth * 2**30 / 1e9, latency, topology="Switch").all_reduce_ns(size, ranks)
        for bandwidth, latency, size, ranks in (
            (128, 500, SIZE, 4),
            (16, 20_000, SIZE // 4, 2),
            (4, 50_000, SIZE // 8, 2),
        )
    ]
    assert found == sum(parts)
    assert group_link(spec, 4, "here").all_reduce_ns(SIZE, 4) == parts[0]


@pytest.mark.parametrize("ranks", [6, 32])
def test_groups_that_do_not_fill_their_dimensions_are_refused(ranks: int) -> None:
    spec = LinkSpec(bandwidth_gb_per_s=(128, 16), latency_ns=(500, 20_000), sizes=(4, 2))
    with pytest.raises(UserError, match="does not fill npus_per_dimension"):
        group_link(spec, ranks, "here")
