from __future__ import annotations

from tests.cost.build import LAYERS, make_tables

from penstock.cost.stage import MixedStageCost, StageRole, TabulatedStageCost


def block_ns(tokens: int) -> int:
    count = len(LAYERS) + 1  # layernorm stands twice
    return round(1000 * (sum(range(1, len(LAYERS) + 1)) + 1 + count * 0.01 * tokens))


def attention_ns(chunk: int, history: int, decodes: int, context: float) -> int:
    used = context if decodes else 16.0
    return int(1000 * (2 + 0.5 * chunk + 0.25 * decodes + 0.125 * history + 0.0625 * used) + 0.5)


ROLES = [StageRole(layers=n, first=i == 0, last=i == 2) for i, n in enumerate((1, 2, 1))]


def test_each_stage_has_its_layers_the_embedding_and_the_head() -> None:
    cost = TabulatedStageCost(make_tables(), ROLES, max_tokens=512)
    times = cost.stage_ns(0, 0, 8, 8 * 256, 256, 256, 8)
    layer = block_ns(8) + attention_ns(0, 0, 8, 256)
    head = 108_000 + 10_000
    assert list(times) == [layer + 5000, 2 * layer, layer + 7000 + head]


def test_a_chunk_that_samples_nothing_has_no_head() -> None:
    cost = TabulatedStageCost(make_tables(), ROLES, max_tokens=512)
    times = cost.stage_ns(128, 64, 0, 0, 0, 0, 0)
    layer = block_ns(128) + attention_ns(128, 64, 0, 0)
    assert list(times) == [layer + 5000, 2 * layer, layer + 7000]


def test_tables_grow_when_a_step_is_larger_and_count_it() -> None:
    cost = TabulatedStageCost(make_tables(), ROLES[:1], max_tokens=16)
    assert cost.stage_ns(100, 0, 0, 0, 0, 0, 0)[0] == block_ns(100) + attention_ns(100, 0, 0, 0) + 5000
    assert cost.notes() == ()
    assert cost.stage_ns(6000, 0, 0, 0, 0, 0, 300)[0] == block_ns(6000) + attention_ns(6000, 0, 0, 0) + 5000
    assert cost.notes() == (
        "H100 / tiny/model: 1 lookups extrapolated beyond the profile's 128 new prefill tokens, the furthest at 6000",
        "H100 / tiny/model: 1 lookups extrapolated beyond the profile's 256 sampled sequences, the furthest at 300",
        "H100 / tiny/model: 1 lookups extrapolated beyond the profile's 512 tokens, the furthest at 6000",
    )


def test_collectives_and_the_prefill_extra_are_per_layer() -> None:
    plain = TabulatedStageCost(make_tables(), ROLES, max_tokens=512)
    other = TabulatedStageCost(
        make_tables(),
        ROLES,
        max_tokens=512,
        block_extra_ns=lambda tokens: 10 * tokens,
        prefill_layer_ns=500.0,
    )
    decode = (0, 0, 8, 8 * 256, 256, 256, 8)
    assert [b - a for a, b in zip(plain.stage_ns(*decode), other.stage_ns(*decode), strict=True)] == [
        80,
        160,
        80,
    ]
    mixed = (32, 0, 8, 8 * 256, 256, 256, 8)
    more = [b - a for a, b in zip(plain.stage_ns(*mixed), other.stage_ns(*mixed), strict=True)]
    assert more == [900, 1800, 900]


def test_stages_of_two_kinds_of_hardware_stand_in_order() -> None:
    whole = TabulatedStageCost(make_tables(), ROLES, max_tokens=512)
    ends = TabulatedStageCost(make_tables(), [ROLES[0], ROLES[2]], max_tokens=512)
    middle = TabulatedStageCost(make_tables(), [ROLES[1]], max_tokens=512)
    step = (64, 64, 8, 8 * 256, 200, 300, 9)
    mixed = MixedStageCost([(ends, (0, 2)), (middle, (1,))])
    assert list(mixed.stage_ns(*step)) == list(whole.stage_ns(*step))
    mixed.stage_ns(0, 0, 8, 8 * 5000, 5000, 5000, 8)
    assert len(mixed.notes()) == 2
