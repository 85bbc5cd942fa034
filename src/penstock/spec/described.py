"""Specs as plain values, for the record of what a run was made from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from penstock.spec.cluster import InstanceSpec
from penstock.spec.layers import DenseMlp, GroupedAttention
from penstock.spec.model import ModelSpec


def described_instance(instance: InstanceSpec) -> dict[str, Any]:
    """All members of an instance; those of experts, data-parallel groups and a calibration where it has them."""
    left_out = set[str]() if instance.model.moe is not None else {"experts"}
    if instance.dp_group is None:
        left_out |= {"dp_group", "dp_size", "dp_rank", "data_parallel"}
    if instance.calibration is None:
        left_out.add("calibration")
    members = {name: value for name, value in asdict(instance).items() if name not in left_out}
    return members | {"model": described_model(instance.model)}


def described_model(model: ModelSpec) -> dict[str, Any]:
    """A model; where all its layers are alike, by the names that a Hugging Face config has for them."""
    if len(model.kinds) == 1:
        attention, mlp = model.kinds[0].attention, model.kinds[0].mlp
        if isinstance(attention, GroupedAttention) and attention.window is None and isinstance(mlp, DenseMlp):
            return {
                "name": model.name,
                "num_layers": model.num_layers,
                "hidden_size": model.hidden_size,
                "intermediate_size": mlp.intermediate_size,
                "num_heads": attention.num_heads,
                "num_kv_heads": attention.num_kv_heads,
                "head_dim": attention.head_dim,
                "vocab_size": model.vocab_size,
                "max_position_embeddings": model.max_position_embeddings,
                "tie_word_embeddings": model.tie_word_embeddings,
                "has_qk_norm": attention.has_qk_norm,
                "has_attention_bias": attention.has_bias,
                "dtype": model.dtype,
                "model_type": model.model_type,
                "moe": None,
            }
    return {**asdict(model), "num_layers": model.num_layers}
