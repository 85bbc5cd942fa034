"""Weights and KV of layers that are not all alike: experts on a rank, windows, states, one latent for all heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cost.build import TINY, make_instance

from penstock.cost.memory import plan_memory
from penstock.cost.weights import Shard, layer_weight_bytes
from penstock.errors import UserError
from penstock.spec.experts import ExpertOptions
from penstock.spec.layers import (
    GroupedAttention,
    LatentAttention,
    LayerGroup,
    LayerKind,
    LinearAttention,
    MoeMlp,
)
from penstock.units import GIB

ATTENTION = GroupedAttention(num_heads=16, num_kv_heads=4, head_dim=64)
MOE = MoeMlp(num_experts=16, experts_per_token=2, intermediate_size=512, shared_intermediate_size=256)
MIXTURE = LayerKind(ATTENTION, MOE)
EXPERT = 3 * 1024 * 512
SHARED = 3 * 1024 * 256
REST = 1024 * (16 + 8) * 64 + 1024 * 1024
ALWAYS = 2 * 1024 + 16 * 1024  # norms and router


@pytest.mark.parametrize(
    ("shard", "elements"),
    [
        (Shard(tp_size=1), REST + SHARED + 16 * EXPERT),
        (Shard(tp_size=2), (REST + SHARED + 16 * EXPERT) // 2),  # each expert split
        (Shard(tp_size=2, ep_size=2), (REST + SHARED) // 2 + 8 * EXPERT),
        (Shard(tp_size=1, dp_size=4, ep_size=4), REST + SHARED + 4 * EXPERT),  # attention is replicated
        (Shard(tp_size=1, dp_size=4), REST + SHARED + 16 * EXPERT // 4),
        (
            Shard(tp_size=2, dp_size=2, ep_size=4),
            REST // 2 + SHARED + 4 * EXPERT,
        ),  # tokens split: shared whole
        (Shard(tp_size=1, dp_size=4, ep_size=4, redundant_experts=4), REST + SHARED + 5 * EXPERT),
        (Shard(tp_size=1, dp_size=3, ep_size=3), REST + SHARED + 6 * EXPERT),  # the rank with one more
    ],
)
def test_what_a_rank_holds_of_a_mixture(shard: Shard, elements: int) -> None:
    assert layer_weight_bytes(TINY, MIXTURE, shard, "bfloat16") == 2 * (elements + ALWAYS)


def test_experts_may_be_narrower_than_the_rest() -> None:
    model = replace(TINY, expert_dtype="fp4", attention_dtype="bfloat16")
    wide = 2 * (REST + ALWAYS)
    assert (
        layer_weight_bytes(model, MIXTURE, Shard(tp_size=1), "fp8") == wide + SHARED + 16 * EXPERT * 17 // 32
    )


def plan(kind: LayerKind, *others: LayerKind, **changes: object) -> tuple[int, dict[str, int], int]:
    """Bytes of a block, reserves by name, and blocks of a model with one layer of each kind."""
    layers = tuple(LayerGroup(one, 1) for one in (kind, *others))
    model = replace(TINY, layers=layers)
    instance = make_instance(model=model, pp_size=1, **changes)
    memory = plan_memory(instance, (layers,))
    (stage,) = memory.stages
    return stage.kv_bytes_per_block, dict(stage.reserves), memory.num_gpu_blocks


def test_a_window_beside_a_whole_context_is_set_aside() -> None:
    whole = LayerKind(ATTENTION, TINY.kinds[0].mlp)
    short = replace(whole, attention=replace(ATTENTION, window=128))
    token = 2 * 4 * 64 * 2
    block, reserves, blocks = plan(whole, short)
    assert block == 16 * token
    assert reserves["KV in windows"] == token * (128 * 128 + 512)
    assert blocks > plan(whole, whole)[2]
    everything = replace(whole, attention=replace(ATTENTION, window=1 << 24))
    assert plan(whole, everything)[0] == 2 * 16 * token  # as much as no window at all: no part is set aside


def test_a_state_is_set_aside_for_every_sequence() -> None:
    linear = LinearAttention(
        num_key_heads=4, num_value_heads=8, key_head_dim=32, value_head_dim=32, conv_kernel=4
    )
    kinds = [LayerKind(one, TINY.kinds[0].mlp) for one in (ATTENTION, linear)]
    block, reserves, _ = plan(*kinds)
    assert block == 16 * 2 * 4 * 64 * 2
    assert reserves["states of sequences"] == 128 * 2 * (8 * 32 * 32 + 3 * (2 * 128 + 256))


def test_every_rank_holds_the_whole_latent() -> None:
    latent = LatentAttention(
        num_heads=16,
        q_lora_rank=256,
        kv_lora_rank=128,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        v_head_dim=64,
    )
    kind = LayerKind(latent, TINY.kinds[0].mlp)
    assert plan(kind)[0] == plan(kind, tp_size=4)[0] == 16 * 160 * 2


def test_a_mixture_that_does_not_fit_says_what_would() -> None:
    layers = (LayerGroup(MIXTURE, 4),)
    model = replace(TINY, layers=layers)
    instance = make_instance(model=model, pp_size=1, memory_bytes=GIB, memory_utilization=0.7)
    with pytest.raises(UserError, match=r"would fit: .*tp 4 at pp 1"):
        plan_memory(replace(instance, experts=ExpertOptions(ep_size=1)), (layers,))
