from __future__ import annotations

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
    assert balance_layers(10.0, (0.0, 0.0, 0.0, 20.0), 32) == (8, 9, 9, 6)


@given(
    layers=st.integers(4, 40),
    fixed=st.tuples(*[st.integers(0, 200)] * 4),
)
def test_no_single_move_improves_a_balanced_split(layers: int, fixed: tuple[int, ...]) -> None:
    split = balance_layers(10.0, tuple(map(float, fixed)), layers)

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
