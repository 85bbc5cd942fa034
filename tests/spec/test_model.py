from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.layers import (
    DenseMlp,
    GroupedAttention,
    LayerGroup,
    LayerKind,
    count_layers,
    uniform_layers,
)
from penstock.spec.model import ModelSpec

ATTENTION = GroupedAttention(num_heads=8, num_kv_heads=2, head_dim=64)
WIDE, NARROW = (LayerKind(ATTENTION, DenseMlp(intermediate_size=width)) for width in (4096, 1024))


def model(*groups: LayerGroup) -> ModelSpec:
    return ModelSpec(name="m", hidden_size=512, layers=groups, vocab_size=1000, max_position_embeddings=4096)


def test_a_cut_may_fall_inside_a_run() -> None:
    mixed = model(LayerGroup(WIDE, 3), LayerGroup(NARROW, 5))
    assert mixed.cut((2, 3, 3)) == (
        (LayerGroup(WIDE, 2),),
        (LayerGroup(WIDE, 1), LayerGroup(NARROW, 2)),
        (LayerGroup(NARROW, 3),),
    )


@given(
    runs=st.lists(st.tuples(st.sampled_from([WIDE, NARROW]), st.integers(1, 9)), min_size=1, max_size=6),
    data=st.data(),
)
def test_a_cut_loses_no_layer_and_keeps_their_order(
    runs: list[tuple[LayerKind, int]], data: st.DataObject
) -> None:
    whole = model(*(LayerGroup(kind, count) for kind, count in runs))
    first = data.draw(st.integers(0, whole.num_layers))
    stages = whole.cut((first, whole.num_layers - first))
    assert [count_layers(stage) for stage in stages] == [first, whole.num_layers - first]
    again = tuple(group.kind for stage in stages for group in stage for _ in range(group.count))
    assert again == whole.layer_kinds()


def test_kinds_stand_once_by_first_appearance() -> None:
    mixed = model(LayerGroup(NARROW, 1), LayerGroup(WIDE, 2), LayerGroup(NARROW, 3))
    assert mixed.kinds == (NARROW, WIDE)
    assert mixed.num_layers == 6


def test_a_part_that_ranks_cannot_share_is_named() -> None:
    whole = model(*uniform_layers(2, num_heads=12, num_kv_heads=6, head_dim=64, intermediate_size=100))
    assert whole.tensor_parallel_obstacle(2) is None
    assert whole.tensor_parallel_obstacle(5) == "tp 5 must divide the 12 attention heads of m"
    assert whole.tensor_parallel_obstacle(12) == "tp 12 must divide the MLP's width 100 of m"
    odd = replace(
        whole, layers=(LayerGroup(LayerKind(replace(ATTENTION, num_heads=12, num_kv_heads=8), WIDE.mlp), 1),)
    )
    assert odd.tensor_parallel_obstacle(3) == "tp 3 must divide, or be a multiple of, the 8 KV heads of m"
