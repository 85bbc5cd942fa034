from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.layers import DenseMlp, GroupedAttention, uniform_layers
from penstock.spec.model import ModelSpec
from penstock.spec.model_files import ModelLibrary, load_model

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "torch_dtype": "float16",
    "something_new": {"ignored": True},
}


def read(tmp_path: Path, **changes: Any) -> tuple[ModelSpec | None, list[str]]:
    """Load a config.json of CONFIG with changes (``...`` removes a key)."""
    config = {key: value for key, value in (CONFIG | changes).items() if value is not ...}
    path = tmp_path / "tiny" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config))
    problems: list[Problem] = []
    model = load_model(str(path), ModelLibrary(()), None, Place("c.json", "model_name"), problems)
    return model, [str(problem) for problem in problems]


def model_of(tmp_path: Path, **changes: Any) -> ModelSpec:
    model, problems = read(tmp_path, **changes)
    assert model is not None, problems
    return model


def attention_of(tmp_path: Path, **changes: Any) -> GroupedAttention:
    attention = model_of(tmp_path, **changes).kinds[0].attention
    assert isinstance(attention, GroupedAttention)
    return attention


def test_a_user_s_own_config_json(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    assert model == ModelSpec(
        name="tiny",
        hidden_size=64,
        layers=uniform_layers(2, num_heads=4, num_kv_heads=4, head_dim=16, intermediate_size=128),
        vocab_size=100,
        max_position_embeddings=512,
        dtype="float16",
    )


def test_what_newer_and_other_families_say_differently(tmp_path: Path) -> None:
    assert model_of(tmp_path, torch_dtype=..., dtype="bfloat16").dtype == "bfloat16"
    assert model_of(tmp_path, torch_dtype="torch.float32").dtype == "float32"
    assert model_of(tmp_path, torch_dtype=...).dtype == "bfloat16"
    assert model_of(tmp_path, quantization_config={"quant_method": "fp8"}).dtype == "fp8"
    assert attention_of(tmp_path, head_dim=32).head_dim == 32
    assert attention_of(tmp_path, num_key_value_heads=2).num_kv_heads == 2
    assert attention_of(tmp_path, model_type="qwen2").has_bias
    assert attention_of(tmp_path, model_type="qwen3").has_qk_norm
    assert model_of(tmp_path, model_type="gemma").tie_word_embeddings
    assert model_of(tmp_path, tie_word_embeddings=True).tie_word_embeddings
    assert model_of(tmp_path, model_type=..., architectures=["MistralForCausalLM"]).model_type == "mistral"
    assert model_of(tmp_path, _name_or_path="me/tiny").name == "me/tiny"
    assert model_of(tmp_path, sliding_window=128, use_sliding_window=False).num_layers == 2
    assert model_of(tmp_path, sliding_window=512).num_layers == 2


def test_experts_are_recognised(tmp_path: Path) -> None:
    moe = model_of(tmp_path, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2).moe
    assert moe is not None
    assert (moe.num_experts, moe.experts_per_token, moe.intermediate_size) == (8, 2, 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": ...}, "missing key 'hidden_size'"),
        ({"vocab_size": "many"}, "vocab_size: must be an integer, not 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be > 0"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: must divide num_attention_heads = 4"),
        ({"hidden_size": 66}, "hidden_size: must be a multiple of num_attention_heads = 4"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "gpt2"}, "model_type: 'gpt2' is not simulated"),
        ({"model_type": "lama"}, "did you mean 'llama'?"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization 'awq' is not simulated"),
        ({"torch_dtype": "float8"}, "torch_dtype: must be one of"),
    ],
)
def test_what_cannot_be_simulated_is_said(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, problems = read(tmp_path, **changes)
    assert model is None
    assert len(problems) == 1
    assert message in problems[0]


def test_all_mistakes_of_a_config_at_once(tmp_path: Path) -> None:
    _, problems = read(tmp_path, hidden_size=..., vocab_size=-1, num_hidden_layers=1.5)
    assert len(problems) == 3


def test_every_model_of_the_repository_loads(repository: Path) -> None:
    library = ModelLibrary((repository / "configs" / "model",))
    names = list(library.names())
    assert len(names) >= 25
    for name in names:
        problems: list[Problem] = []
        model = load_model(name, library, None, Place("c"), problems)
        assert model is not None, problems
        assert model.name == name


def test_our_dimensions_are_those_of_llmservingsim(repository: Path, shared_dir: Path) -> None:
    theirs = ModelLibrary((shared_dir / "data/llmservingsim/model_configs",))
    ours = ModelLibrary((repository / "configs" / "model",))
    names = [name for name in theirs.names() if "Phi-mini" not in name]
    assert len(names) >= 4
    for name in names:
        problems: list[Problem] = []
        assert load_model(name, ours, None, Place("c"), problems) == load_model(
            name, theirs, None, Place("c"), problems
        )
        assert not problems


def parameters(model: ModelSpec) -> float:
    """Weights in billions."""
    (kind,) = model.kinds
    assert isinstance(kind.attention, GroupedAttention)
    assert isinstance(kind.mlp, DenseMlp)
    heads = 2 * (kind.attention.num_heads + kind.attention.num_kv_heads)
    attention = model.hidden_size * kind.attention.head_dim * heads
    mlp = 3 * model.hidden_size * kind.mlp.intermediate_size
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return (model.num_layers * (attention + mlp) + embeddings) / 1e9


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("meta-llama/Llama-3.1-8B", 8.03),
        ("meta-llama/Llama-3.1-70B", 70.6),
        ("meta-llama/Llama-3.1-405B", 405.9),
        ("meta-llama/Llama-3.2-1B", 1.24),
        ("meta-llama/Llama-3.2-3B", 3.21),
        ("meta-llama/Llama-2-7b-hf", 6.74),
        ("meta-llama/Llama-2-13b-hf", 13.02),
        ("meta-llama/Llama-2-70b-hf", 68.98),
        ("mistralai/Mistral-7B-v0.3", 7.25),
        ("Qwen/Qwen2.5-7B", 7.62),
        ("Qwen/Qwen2.5-14B", 14.8),
        ("Qwen/Qwen2.5-32B", 32.8),
        ("Qwen/Qwen2.5-72B", 72.7),
        ("Qwen/Qwen3-8B", 8.19),
        ("Qwen/Qwen3-14B", 14.8),
        ("Qwen/Qwen3-32B", 32.8),
    ],
)
def test_dimensions_add_up_to_the_published_size(name: str, billions: float, repository: Path) -> None:
    problems: list[Problem] = []
    model = load_model(name, ModelLibrary((repository / "configs" / "model",)), None, Place("c"), problems)
    assert model is not None
    assert parameters(model) == pytest.approx(billions, rel=0.005)


def test_models_are_found_beside_the_cluster_config_first(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    path = tmp_path / "model" / "meta-llama" / "Llama-3.1-8B.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CONFIG))
    library = ModelLibrary.near(tmp_path / "cluster")
    problems: list[Problem] = []
    model = load_model("meta-llama/Llama-3.1-8B", library, None, Place("c"), problems)
    assert model is not None
    assert (model.name, model.num_layers) == ("meta-llama/Llama-3.1-8B", 2)
