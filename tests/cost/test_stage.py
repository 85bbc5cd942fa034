from __future__ import annotations

from dataclasses import replace

from tests.cost.build import LAYERS, TINY, make_tables

from penstock.cost.stage import MixedStageCost, StageRole, TabulatedStageCost
from penstock.cost.step_cost import StepShape
from penstock.cost.tables import Curve
from penstock.spec.layers import DenseMlp, LayerGroup


def block_ns(tokens: int) -> int:
    count = len(LAYERS) + 1  # layernorm stands twice
    return round(1000 * (sum(range(1, len(LAYERS) + 1)) + 1 + count * 0.01 * tokens))


def attention_ns(chunk: int, history: int, decodes: int, context: float) -> int:
    used = context if decodes else 16.0
    return int(1000 * (2 + 0.5 * chunk + 0.25 * decodes + 0.125 * history + 0.0625 * used) + 0.5)


ROLES = [StageRole(layers=layers, first=i == 0, last=i == 2) for i, layers in enumerate(TINY.cut((1, 2, 1)))]
TABLES = {TINY.kinds[0]: make_tables()}


def test_each_stage_has_its_layers_the_embedding_and_the_head() -> None:
    cost = TabulatedStageCost(TABLES, ROLES, max_tokens=512)
    times = cost.stage_ns(StepShape(0, 0, 8, 8 * 256, 256, 256, 8))
    layer = block_ns(8) + attention_ns(0, 0, 8, 256)
    head = 108_000 + 10_000
    assert list(times) == [layer + 5000, 2 * layer, layer + 7000 + head]


def test_a_chunk_that_samples_nothing_has_no_head() -> None:
    cost = TabulatedStageCost(TABLES, ROLES, max_tokens=512)
    times = cost.stage_ns(StepShape(128, 64, 0, 0, 0, 0, 0))
    layer = block_ns(128) + attention_ns(128, 64, 0, 0)
    assert list(times) == [layer + 5000, 2 * layer, layer + 7000]


def test_tables_grow_when_a_step_is_larger_and_count_it() -> None:
    cost = TabulatedStageCost(TABLES, ROLES[:1], max_tokens=16)
    assert (
        cost.stage_ns(StepShape(100, 0, 0, 0, 0, 0, 0))[0]
        == block_ns(100) + attention_ns(100, 0, 0, 0) + 5000
    )
    assert cost.notes() == ()
    assert (
        cost.stage_ns(StepShape(6000, 0, 0, 0, 0, 0, 300))[0]
        == block_ns(6000) + attention_ns(6000, 0, 0, 0) + 5000
    )
    assert cost.notes() == (
        "H100 / tiny/model: 1 lookups extrapolated beyond the profile's 128 new prefill tokens, the furthest at 6000",
        "H100 / tiny/model: 1 lookups extrapolated beyond the profile's 256 sampled sequences, the furthest at 300",
        "H100 / tiny/model: 1 lookups extrapolated beyond the profile's 512 tokens, the furthest at 6000",
    )


def test_collectives_and_the_prefill_extra_are_per_layer() -> None:
    plain = TabulatedStageCost(TABLES, ROLES, max_tokens=512)
    other = TabulatedStageCost(
        TABLES,
        ROLES,
        max_tokens=512,
        block_extra_ns=lambda tokens: 10 * tokens,
        prefill_layer_ns=500.0,
    )
    decode = StepShape(0, 0, 8, 8 * 256, 256, 256, 8)
    assert [b - a for a, b in zip(plain.stage_ns(decode), other.stage_ns(decode), strict=True)] == [
        80,
        160,
        80,
    ]
    mixed = StepShape(32, 0, 8, 8 * 256, 256, 256, 8)
    more = [b - a for a, b in zip(plain.stage_ns(mixed), other.stage_ns(mixed), strict=True)]
    assert more == [900, 1800, 900]


def test_stages_of_two_kinds_of_hardware_stand_in_order() -> None:
    whole = TabulatedStageCost(TABLES, ROLES, max_tokens=512)
    ends = TabulatedStageCost(TABLES, [ROLES[0], ROLES[2]], max_tokens=512)
    middle = TabulatedStageCost(TABLES, [ROLES[1]], max_tokens=512)
    step = StepShape(64, 64, 8, 8 * 256, 200, 300, 9)
    mixed = MixedStageCost([(ends, (0, 2)), (middle, (1,))])
    assert list(mixed.stage_ns(step)) == list(whole.stage_ns(step))
    mixed.stage_ns(StepShape(0, 0, 8, 8 * 5000, 5000, 5000, 8))
    assert len(mixed.notes()) == 2


def test_layers_of_several_kinds_are_each_costed_by_their_own_tables() -> None:
    full = TINY.kinds[0]
    short = replace(full, attention=replace(full.attention, head_dim=32))
    slim = replace(full, mlp=DenseMlp(intermediate_size=64))
    plain = make_tables()
    quick = replace(plain, attention=replace(plain.attention, us=plain.attention.us / 2))
    lean = replace(plain, dense={name: Curve(c.sizes, c.us * 2) for name, c in plain.dense.items()})
    layers = (LayerGroup(full, 1), LayerGroup(short, 2), LayerGroup(slim, 3))
    role = StageRole(layers=layers, first=False, last=False)
    mixed = TabulatedStageCost({full: plain, short: quick, slim: lean}, [role], max_tokens=512)
    for step in (StepShape.of_decodes(8, 256), StepShape(100, 64, 8, 8 * 256, 256, 256, 8)):
        alone = [
            TabulatedStageCost(
                {kind: tables},
                [StageRole(layers=(LayerGroup(kind, n),), first=False, last=False)],
                max_tokens=512,
            ).stage_ns(step)[0]
            for kind, tables, n in ((full, plain, 1), (short, quick, 2), (slim, lean, 3))
        ]
        assert mixed.stage_ns(step)[0] == sum(alone)
    turns = mixed.decode_turns_ns(8, 8 * 300, 250, 400, 40)
    assert turns is not None
    one_by_one = [
        mixed.stage_ns(StepShape(0, 0, 8, 8 * (300 + turn), 250 + turn, 400 + turn, 8))[0]
        for turn in range(40)
    ]
    assert turns[0].tolist() == one_by_one
