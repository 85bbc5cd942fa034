from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace

import pytest
from tests.cost.build import TINY, make_instance

from penstock.cost.memory import CUDA_CONTEXT_BYTES, activation_peak_bytes, plan_memory
from penstock.cost.weights import Shard, kv_bytes_per_token_layer, layer_weight_bytes, stage_weight_bytes
from penstock.errors import UserError
from penstock.spec.layers import uniform_layers
from penstock.spec.options import SchedulerOptions
from penstock.units import GIB, MIB

LAYER = (1024 * (16 + 8) * 64 + 1024 * 1024 + 3 * 1024 * 4096 + 2 * 1024) * 2
TABLE = 32000 * 1024 * 2


def test_weights_of_a_layer_by_hand() -> None:
    assert layer_weight_bytes(TINY, TINY.kinds[0], Shard(tp_size=1), "bfloat16") == LAYER
    linear = LAYER - 2 * 2 * 1024
    assert layer_weight_bytes(TINY, TINY.kinds[0], Shard(tp_size=2), "bfloat16") == linear // 2 + 2 * 2 * 1024
    assert layer_weight_bytes(TINY, TINY.kinds[0], Shard(tp_size=1), "fp8") == linear // 2 + 2 * 2 * 1024


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    assert kv_bytes_per_token_layer(TINY.kinds[0], 1, "bfloat16", "auto") == 2 * 4 * 64 * 2
    assert kv_bytes_per_token_layer(TINY.kinds[0], 4, "bfloat16", "auto") == 2 * 64 * 2
    assert kv_bytes_per_token_layer(TINY.kinds[0], 8, "bfloat16", "auto") == 2 * 64 * 2
    assert kv_bytes_per_token_layer(TINY.kinds[0], 4, "bfloat16", "fp8") == 2 * 64
    assert kv_bytes_per_token_layer(TINY.kinds[0], 4, "fp8", "auto") == 2 * 64 * 2


def test_tied_embeddings_stand_on_both_ends_of_a_pipeline_and_once_without() -> None:
    norm = 2 * 1024
    tied = replace(TINY, tie_word_embeddings=True)
    alone = {"layers": TINY.layers, "first": True, "last": True}
    assert stage_weight_bytes(TINY, Shard(tp_size=1), "bfloat16", **alone) == 4 * LAYER + 2 * TABLE + norm
    assert stage_weight_bytes(tied, Shard(tp_size=1), "bfloat16", **alone) == 4 * LAYER + TABLE + norm
    first = stage_weight_bytes(
        tied, Shard(tp_size=1), "bfloat16", layers=TINY.cut((2, 2))[0], first=True, last=False
    )
    last = stage_weight_bytes(
        tied, Shard(tp_size=1), "bfloat16", layers=TINY.cut((2, 2))[0], first=False, last=True
    )
    assert (first, last) == (2 * LAYER + TABLE, 2 * LAYER + TABLE + norm)


def test_blocks_are_the_minimum_over_stages_and_the_rest_is_stranded() -> None:
    instance = make_instance()
    plan = plan_memory(instance, TINY.cut((1, 3)))
    small = plan.stages[1]
    usable = int(8 * GIB * 0.9)
    reserved = CUDA_CONTEXT_BYTES + activation_peak_bytes(instance, 1, last=True)
    per_block = 16 * 3 * 2 * 4 * 64 * 2
    assert small.kv_blocks == (usable - small.weights_bytes - reserved) // per_block
    assert plan.num_gpu_blocks == small.kv_blocks
    assert small.stranded_bytes == 0
    roomy = plan.stages[0]
    assert roomy.stranded_bytes == (roomy.kv_blocks - plan.num_gpu_blocks) * roomy.kv_bytes_per_block > 0
    assert [name for name, _ in small.reserves] == ["activation peak", "CUDA context", "CUDA graphs"]


def test_measured_blocks_override() -> None:
    plan = plan_memory(make_instance(num_gpu_blocks=77), TINY.cut((2, 2)))
    assert plan.num_gpu_blocks == 77
    assert plan.basis == "num_gpu_blocks as given"


def test_a_model_that_does_not_fit_is_refused_with_what_would() -> None:
    instance = make_instance(memory_bytes=GIB, memory_utilization=0.7, pp_size=1)
    with pytest.raises(UserError) as error:
        plan_memory(instance, TINY.cut((4,)))
    text = str(error.value)
    assert text.startswith(
        "cluster.json: nodes[0].instances[0]: tiny/model in bfloat16 does not fit at tp 1 x pp 1"
    )
    assert "0.70 GiB usable (1 GiB x 0.7)" in text
    assert "would fit: pp " in text or "would fit: tp " in text
    for pp_size, layers in ((2, (2, 2)), (4, (1, 1, 1, 1))):
        if f"pp {pp_size} at" in text:
            assert plan_memory(replace(instance, pp_size=pp_size), TINY.cut(layers)).num_gpu_blocks >= 2


def test_a_model_that_nothing_makes_fit_says_so() -> None:
    with pytest.raises(UserError, match="no pp or tp alone would make it fit"):
        plan_memory(make_instance(memory_bytes=GIB // 8), TINY.cut((2, 2)))


def test_a_suggested_tp_can_split_the_model() -> None:
    wide = uniform_layers(4, num_heads=16, num_kv_heads=4, head_dim=64, intermediate_size=4100)
    model = replace(TINY, layers=wide)  # which 8 and 16 ranks cannot share
    assert model.tensor_parallel_obstacle(4) is None
    suggested: set[str] = set()
    for eighths in range(5, 9):
        try:
            plan_memory(make_instance(model=model, pp_size=1, memory_bytes=eighths * GIB // 8), (wide,))
        except UserError as error:
            suggested.update(re.findall(r"tp (\d+) at pp 1", str(error)))
    assert suggested <= {"2", "4"}
    assert suggested


def test_an_uneven_split_that_does_not_fit_where_an_even_one_does() -> None:
    instance = make_instance(scheduler=SchedulerOptions(max_num_batched_tokens=16, max_num_seqs=1))
    for mebibytes in range(600, 1200, 8):
        sized = replace(instance, memory_bytes=mebibytes * MIB)
        with suppress(UserError):
            plan_memory(sized, TINY.cut((2, 2)))
            break
    with pytest.raises(UserError, match=r"would fit: 2 \+ 2 layers"):
        plan_memory(sized, TINY.cut((3, 1)))


def test_blocks_that_are_given_must_exist() -> None:
    instance = replace(make_instance(), num_gpu_blocks=1 << 30, where="c.json: nodes[0].instances[0]")
    with pytest.raises(UserError, match=r"instances\[0\]\.num_gpu_blocks: does not fit: on stage 0 weights"):
        plan_memory(instance, (TINY.layers,))
