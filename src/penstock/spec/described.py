"""Specs as plain values, for the record of what a run was made from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from penstock.spec.cluster import InstanceSpec
from penstock.spec.model import AttentionKind, DenseMlp, ModelSpec


def described_instance(instance: InstanceSpec) -> dict[str, Any]:
    """All members of an instance; of a calibration only where there is one."""
    members = asdict(instance) | {"model": described_model(instance.model)}
    if instance.calibration is None:
        del members["calibration"]
    return members


def described_model(model: ModelSpec) -> dict[str, Any]:
    """A model; where all its layers are alike, by the names that a Hugging Face config has for them."""
    if len(model.kinds) == 1:
        attention, mlp = model.kinds[0].attention, model.kinds[0].mlp
        if type(attention) is AttentionKind and type(mlp) is DenseMlp:
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
