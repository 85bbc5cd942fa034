from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import UserError
from penstock.pipeline.partition import balance_layers, partition_layers


def test_the_remainder_goes_to_the_stages_before_the_last() -> None:
    assert partition_layers(61, 8) == (7, 7, 8, 8, 8, 8, 8, 7)
    assert partition_layers(32, 2) == (16, 16)
    assert partition_layers(7, 2) == (4, 3)
    assert partition_layers(5, 1) == (5,)


@given(layers=st.integers(1, 200), stages=st.integers(1, 16))
def test_every_layer_stands_on_one_stage(layers: int, stages: int) -> None:
    if stages > layers:
        with pytest.raises(UserError, match=f"{layers} layers into {stages} stages"):
            partition_layers(layers, stages)
        return
    split = partition_layers(layers, stages)
    assert sum(split) == layers
    assert max(split) - min(split) <= 1


def test_balancing_takes_layers_from_the_stage_with_the_head() -> None:
    assert balance_layers([10] * 32, (0, 0, 0, 20)) == (8, 9, 9, 6)


@given(
    layers=st.integers(4, 40),
    fixed=st.tuples(*[st.integers(0, 200)] * 4),
)
def test_no_single_move_improves_a_balanced_split(layers: int, fixed: tuple[int, ...]) -> None:
    split = balance_layers([10] * layers, fixed)

    def slowest(candidate: tuple[int, ...]) -> float:
        return max(cost + 10.0 * count for cost, count in zip(fixed, candidate, strict=True))

    assert sum(split) == layers
    for source in range(4):
        for target in range(4):
            moved = list(split)
            moved[source] -= 1
            moved[target] += 1
            if moved[source] >= 1:
                assert slowest(tuple(moved)) >= slowest(split)


def test_layers_of_two_kinds_are_balanced_by_their_own_cost() -> None:
    assert balance_layers([10, 10, 10, 30, 30, 30], (0, 0)) == (4, 2)
    assert balance_layers([30, 30, 10, 10, 10, 10], (0, 0, 0)) == (1, 2, 3)


@given(
    layer_ns=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    fixed=st.lists(st.integers(0, 20), min_size=1, max_size=4),
)
def test_balancing_finds_the_best_of_all_splits(layer_ns: list[int], fixed: list[int]) -> None:
    stages, layers = len(fixed), len(layer_ns)
    if stages > layers:
        return

    def times(split: tuple[int, ...]) -> list[int]:
        place, found = 0, list(fixed)
        for stage, count in enumerate(split):
            found[stage] += sum(layer_ns[place : place + count])
            place += count
        return sorted(found, reverse=True)

    splits = [
        tuple(b - a for a, b in pairwise((0, *ends, layers)))
        for ends in combinations(range(1, layers), stages - 1)
    ]
    best = min(map(times, splits))
    equals = [split for split in splits if times(split) == best]
    assert balance_layers(layer_ns, fixed) == max(equals, key=lambda split: (split[-2::-1], split[-1]))
