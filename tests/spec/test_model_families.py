"""Layers of each family, against published sizes and against configs made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.layers import DenseMlp, GroupedAttention, LatentAttention, LinearAttention, MoeMlp
from penstock.spec.model import ModelSpec
from penstock.spec.model_files import ModelLibrary, load_model


def read(tmp_path: Path, config: dict[str, Any]) -> tuple[ModelSpec | None, list[str]]:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"max_position_embeddings": 131072, **config}))
    problems: list[Problem] = []
    model = load_model(str(path), ModelLibrary(()), None, Place("c.json", "model_name"), problems)
    return model, [problem.message for problem in problems]


def model_of(tmp_path: Path, config: dict[str, Any]) -> ModelSpec:
    model, problems = read(tmp_path, config)
    assert model is not None, problems
    return model


# --- published totals --------------------------------------------------------------------------------------------

QWEN3_NEXT = {
    "model_type": "qwen3_next",
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "vocab_size": 151936,
    "intermediate_size": 5120,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
MINIMAX_M2 = {
    "model_type": "minimax_m2",
    "hidden_size": 3072,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 200064,
    "intermediate_size": 1536,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
    "use_qk_norm": True,
}
QWEN2_57B = {
    "model_type": "qwen2_moe",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 151936,
    "intermediate_size": 18944,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20480,
}


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [(QWEN3_NEXT, 80e9, 3e9), (MINIMAX_M2, 229e9, 10e9), (QWEN2_57B, 57.4e9, 14e9)],
    ids=["Qwen3-Next-80B-A3B", "MiniMax-M2-230B-A10B", "Qwen2-57B-A14B"],
)
def test_relatives_add_up_to_the_size_in_their_name(
    config: dict[str, Any], total: float, active: float, tmp_path: Path
) -> None:
    model = model_of(tmp_path, config)
    assert model.parameters == pytest.approx(total, rel=0.01)
    assert model.active_parameters == pytest.approx(active, rel=0.3)  # the embedding counted or not


def test_every_total_of_the_shared_list_to_the_parameter(shared_dir: Path, tmp_path: Path) -> None:
    """All, active, per token without the embedding, and KV bytes: Qwen3 30.5B/3.3B and 235B/22B, DeepSeek-V3 671B/37B,
    V2 236B/21B, V2-Lite 15.7B/2.4B, Kimi-K2 1T/32B, gpt-oss 117B/5.1B and 21B/3.6B, Mixtral 46.7B/12.9B and 141B/39B,
    Phi-3.5-MoE 42B/6.6B, Phi-mini-MoE 7.6B/2.4B, Llama 4 Scout 109B/17B and Maverick 400B/17B, GLM-4.5 355B/32B and
    Air 106B/12B, as their makers publish them."""
    data = shared_dir / "data" / "aiconfigurator"
    listed = json.loads((data / "moe_models.json").read_text())
    assert len(listed) == 16
    for entry in listed:
        config = entry.get("config_fields")
        if config is None:
            config = json.loads((data / entry["config"]).resolve().read_text())
        model = model_of(tmp_path, config)
        embedding = model.vocab_size * model.hidden_size
        kv = 2 * sum(group.count * group.kind.attention.kv_elements_per_token(1) for group in model.layers)
        found = (model.parameters, model.active_parameters, model.active_parameters - embedding, kv)
        wanted = ("total", "active", "active_without_embedding", "kv_bytes_per_token_bf16")
        assert found == tuple(entry[name] for name in wanted), entry["model"]
        moe = model.moe
        assert moe is not None
        hidden = model.hidden_size
        assert moe.expert_weights(hidden, 1).total == entry["per_expert"]
        assert moe.shared_weights(hidden, 1).total == entry["shared_per_layer"]
        assert moe.router_elements(hidden) == entry["router_per_layer"]
        assert model.kinds[0].attention.weights(hidden, 1).total == entry["attention_per_layer"]
        sparse = [isinstance(kind.mlp, MoeMlp) for kind in model.layer_kinds()]
        assert (sum(sparse), sparse.index(True)) == (entry["moe_layers"], entry["first_moe_layer"])


# --- which layer is what -----------------------------------------------------------------------------------------

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "num_experts_per_tok": 2,
}


def sparse_layers(model: ModelSpec) -> list[int]:
    return [layer for layer, kind in enumerate(model.layer_kinds()) if isinstance(kind.mlp, MoeMlp)]


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [
        ({"model_type": "deepseek_v3", "n_routed_experts": 8, "first_k_dense_replace": 2}, [2, 3, 4, 5]),
        (
            {
                "model_type": "deepseek_v3",
                "n_routed_experts": 8,
                "first_k_dense_replace": 1,
                "moe_layer_freq": 2,
            },
            [2, 4],
        ),
        ({"model_type": "qwen3_moe", "num_experts": 8, "decoder_sparse_step": 2}, [1, 3, 5]),
        ({"model_type": "qwen3_moe", "num_experts": 8, "mlp_only_layers": [0, 3]}, [1, 2, 4, 5]),
        (
            {
                "model_type": "llama4_text",
                "num_local_experts": 8,
                "interleave_moe_layer_step": 3,
                "intermediate_size_mlp": 96,
            },
            [2, 5],
        ),
        ({"model_type": "mixtral", "num_local_experts": 8}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_layers_are_a_mixture(changes: dict[str, Any], sparse: list[int], tmp_path: Path) -> None:
    model = model_of(tmp_path, SMALL | changes)
    assert sparse_layers(model) == sparse
    moe = model.moe
    assert moe is not None
    own_width = changes["model_type"] in ("mixtral", "llama4_text")
    assert moe.intermediate_size == (128 if own_width else 32)
    dense = [kind.mlp.intermediate_size for kind in model.kinds if isinstance(kind.mlp, DenseMlp)]
    assert dense == ([] if len(sparse) == 6 else [96 if changes["model_type"] == "llama4_text" else 128])


def windows(model: ModelSpec) -> list[int | None]:
    return [kind.attention.window for kind in model.layer_kinds()]


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"model_type": "llama", "sliding_window": 64}, [64] * 6),
        ({"model_type": "llama", "sliding_window": 131072}, [None] * 6),
        ({"model_type": "mistral", "sliding_window": None}, [None] * 6),
        ({"model_type": "qwen2", "sliding_window": 64}, [None] * 6),
        (
            {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 4},
            [None] * 4 + [64] * 2,
        ),
        ({"model_type": "gpt_oss", "num_local_experts": 4, "sliding_window": 8}, [8, None] * 3),
        (
            {"model_type": "llama4_text", "num_local_experts": 4, "attention_chunk_size": 8},
            [8, 8, 8, None, 8, 8],
        ),
        (
            {
                "model_type": "llama",
                "sliding_window": 64,
                "layer_types": ["full_attention"] * 5 + ["sliding_attention"],
            },
            [None] * 5 + [64],
        ),
    ],
)
def test_how_far_each_layer_sees(changes: dict[str, Any], seen: list[int | None], tmp_path: Path) -> None:
    assert windows(model_of(tmp_path, SMALL | changes)) == seen


def test_latent_attention_keeps_one_latent_on_every_rank(tmp_path: Path) -> None:
    latent = {
        "kv_lora_rank": 32,
        "q_lora_rank": None,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    }
    model = model_of(tmp_path, SMALL | latent | {"model_type": "deepseek_v2", "n_routed_experts": 8})
    attention = model.kinds[0].attention
    assert isinstance(attention, LatentAttention)
    assert attention.kv_elements_per_token(1) == attention.kv_elements_per_token(4) == 40
    whole, half = attention.weights(64, 1), attention.weights(64, 2)
    assert whole.matrices - half.matrices == (whole.matrices - 64 * 40) // 2
    assert attention.obstacle(3) == "tp 3 must divide the 4 attention heads"


def test_linear_attention_keeps_a_state_and_no_tokens(tmp_path: Path) -> None:
    model = model_of(tmp_path, QWEN3_NEXT)
    kinds = [type(kind.attention) for kind in model.layer_kinds()]
    assert kinds[:4] == [LinearAttention] * 3 + [GroupedAttention]
    linear = model.kinds[0].attention
    assert linear.kv_elements_per_token(1) == 0
    assert linear.state_elements(1) == 32 * 128 * 128 + 3 * (2 * 16 * 128 + 32 * 128)
    assert linear.state_elements(2) * 2 == linear.state_elements(1)


def test_a_multi_modal_config_gives_its_language_model_and_says_so(tmp_path: Path) -> None:
    inner = {"model_type": "llama4_text", "num_local_experts": 4, **SMALL, "max_position_embeddings": 4096}
    model = model_of(tmp_path, {"model_type": "llama4", "torch_dtype": "bfloat16", "text_config": inner})
    assert model.num_layers == 6
    assert "encoders" in model.notes[0]


# --- how wide the weights are ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "dtypes"),
    [
        ({"quant_method": "fp8"}, ("fp8", None, None)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, ("fp8_block", None, None)),
        ({"quant_method": "mxfp4"}, ("bfloat16", "fp4", None)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("nvfp4", None, None)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, ("fp8", None, None)),
        (
            {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.*.self_attn*"]},
            ("nvfp4", None, "bfloat16"),
        ),
        (
            {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": ["lm_head"]},
            ("nvfp4", None, None),
        ),
    ],
)
def test_quantised_weights(
    quantization: dict[str, Any], dtypes: tuple[str | None, ...], tmp_path: Path
) -> None:
    config = {**SMALL, "model_type": "qwen3_moe", "num_experts": 8, "quantization_config": quantization}
    model = model_of(tmp_path, config)
    assert (model.dtype, model.expert_dtype, model.attention_dtype) == dtypes


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "deepseek_v32", "n_routed_experts": 8},
            "'deepseek_v32' is not simulated: it has attention",
        ),
        ({"model_type": "glm_moe_dsa", "n_routed_experts": 8}, "an indexer picks"),
        ({"model_type": "jamba", "num_experts": 8}, "state-space layers"),
        ({"model_type": "qwen3_mo", "num_experts": 8}, "did you mean 'qwen3_moe'?"),
        (
            {"model_type": "mixtral", "num_local_experts": 1},
            "num_experts_per_tok: must be <= num_local_experts = 1",
        ),
        (
            {"model_type": "llama", "layer_types": ["full_attention"]},
            "layer_types: must have one entry for each of the 6 layers, not 1 entries",
        ),
        ({"model_type": "llama", "layer_types": ["mamba"] * 6}, "layer_types: 'mamba' is not simulated"),
        (
            {"model_type": "deepseek_v3", "n_routed_experts": 8, "moe_intermediate_size": None},
            "missing key 'moe_intermediate_size'",
        ),
    ],
)
def test_what_is_missing_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"max_position_embeddings": 4096} | SMALL | changes))
    problems: list[Problem] = []
    assert load_model(str(path), ModelLibrary(()), None, Place("c.json"), problems) is None
    assert len(problems) == 1
    assert message in str(problems[0])
