from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cost.experts.routing import pick_probabilities, route
from penstock.cost.weights import Shard
from penstock.spec.experts import ExpertOptions
from penstock.spec.layers import MoeMlp

MOE = MoeMlp(num_experts=128, experts_per_token=8, intermediate_size=768)


def one(tokens: float) -> np.ndarray:
    return np.array([tokens])


def test_uniform_experts_in_expectation_by_the_textbook() -> None:
    alone = route(MOE, Shard(tp_size=1), ExpertOptions())
    assert alone.pairs(one(100))[0, 0] == pytest.approx(800)
    assert alone.experts(one(100))[0, 0] == pytest.approx(128 * (1 - (1 - 8 / 128) ** 100))
    assert alone.experts(one(1))[0, 0] == pytest.approx(8)


def test_a_rank_has_its_share_and_the_slowest_one_some_luck() -> None:
    shared = route(MOE, Shard(tp_size=8, ep_size=8), ExpertOptions(ep_size=8))
    pairs, experts = shared.pairs(one(512)), shared.experts(one(16))
    assert pairs.shape == (8, 1)
    mean = 512 * 8 / 8
    noise = (512 * 16 * (1 / 16) * (15 / 16)) ** 0.5
    assert (pairs[:, 0] - mean) / noise == pytest.approx(1.434, abs=0.01)
    assert 16 * (1 - (1 - 1 / 16) ** 16) < experts[0, 0] < 16
    assert shared.pairs(one(0))[0, 0] == shared.experts(one(0))[0, 0] == 0


def test_the_luck_of_the_slowest_rank_is_what_drawing_gives() -> None:
    """Against 400 draws of 64 tokens: the largest number of pairs and of distinct experts over 8 ranks."""
    draw = random.Random(1)
    pairs, experts = [], []
    for _ in range(400):
        hits = [0] * 128
        for _ in range(64):
            for expert in draw.sample(range(128), 8):
                hits[expert] += 1
        ranks = [hits[first : first + 16] for first in range(0, 128, 16)]
        pairs.append(max(map(sum, ranks)))
        experts.append(max(sum(1 for count in rank if count) for rank in ranks))
    shared = route(MOE, Shard(tp_size=8, ep_size=8), ExpertOptions(ep_size=8))
    assert shared.pairs(one(64))[0, 0] == pytest.approx(np.mean(pairs), rel=0.02)
    assert shared.experts(one(64))[0, 0] == pytest.approx(np.mean(experts), rel=0.02)


@given(
    popularity=st.one_of(
        st.sampled_from(["uniform", "power_law(0.5)", "power_law(1.2)", "power_law(4)"]),
        st.lists(st.floats(0.1, 100), min_size=16, max_size=16).map(tuple),
    ),
    picks=st.integers(1, 16),
)
def test_a_token_picks_so_many_experts_whatever_their_popularity(
    popularity: str | tuple[float, ...], picks: int
) -> None:
    moe = MoeMlp(num_experts=16, experts_per_token=picks, intermediate_size=64)
    chance = pick_probabilities(moe, popularity)
    assert chance.sum() == pytest.approx(picks)
    assert (chance >= 0).all()
    assert (chance <= 1 + 1e-9).all()


def test_placement_and_balancing() -> None:
    steps = tuple(float(number) for number in range(1, 17))  # the last experts are the most popular
    moe = MoeMlp(num_experts=16, experts_per_token=2, intermediate_size=64)
    shard = Shard(tp_size=4, ep_size=4)

    def imbalance(shard: Shard = shard, **options: object) -> float:
        return route(moe, shard, ExpertOptions(ep_size=4, popularity=steps, **options)).imbalance  # pyright: ignore

    linear, dealt, balanced = imbalance(), imbalance(placement="round_robin"), imbalance(load_balancing=True)
    assert linear > dealt > balanced >= 1
    hot = (100.0, *[1.0] * 15)
    spare = Shard(tp_size=4, ep_size=4, redundant_experts=4)
    moe = MoeMlp(num_experts=16, experts_per_token=1, intermediate_size=64)
    copied = route(moe, spare, ExpertOptions(ep_size=4, popularity=hot, load_balancing=True))
    assert [len(load) for load in copied.loads] == [5, 5, 5, 5]
    assert sum(load.sum() for load in copied.loads) == pytest.approx(1)
    alone = route(moe, shard, ExpertOptions(ep_size=4, popularity=hot, load_balancing=True))
    assert copied.imbalance < 0.5 * alone.imbalance


def test_seven_experts_on_two_ranks_leave_the_first_one_more() -> None:
    moe = MoeMlp(num_experts=7, experts_per_token=1, intermediate_size=64)
    loads = route(moe, Shard(tp_size=2, ep_size=2), ExpertOptions(ep_size=2)).loads
    assert [len(load) for load in loads] == [4, 3]
