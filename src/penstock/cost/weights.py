"""Bytes of a model: weights per stage and NPU, KV cache per token, activations."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.spec.model import AttentionKind, DenseMlp, LayerGroup, LayerKind, ModelSpec, StageLayers

_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "fp8": 1, "int8": 1}
_VOCAB_PADDING = 64


def weight_bytes(dtype: str) -> int:
    """Bytes of one element of a linear layer's weights."""
    return _DTYPE_BYTES[dtype]


def activation_bytes(dtype: str) -> int:
    """Bytes of one element between layers: 8-bit weights are multiplied from 16-bit activations."""
    return max(_DTYPE_BYTES[dtype], 2)


def kv_bytes(dtype: str, kv_cache_dtype: str) -> int:
    """Bytes of one KV element: "auto" is the activations' width."""
    return activation_bytes(dtype) if kv_cache_dtype == "auto" else _DTYPE_BYTES[kv_cache_dtype]


def kv_heads_per_rank(attention: AttentionKind, tp_size: int) -> int:
    """KV heads on one NPU; replicated when there are fewer than ranks (vLLM ``get_num_kv_heads``)."""
    return max(1, attention.num_kv_heads // tp_size)


def kv_bytes_per_token_layer(attention: AttentionKind, tp_size: int, dtype: str, kv_cache_dtype: str) -> int:
    """Keys and values of one token in one layer on one NPU."""
    return 2 * kv_heads_per_rank(attention, tp_size) * attention.head_dim * kv_bytes(dtype, kv_cache_dtype)


def kv_bytes_per_token(layers: StageLayers, tp_size: int, dtype: str, kv_cache_dtype: str) -> int:
    """Keys and values of one token in all layers of a stage on one NPU."""
    return sum(
        group.count * kv_bytes_per_token_layer(group.kind.attention, tp_size, dtype, kv_cache_dtype)
        for group in layers
    )


def layer_weight_bytes(model: ModelSpec, kind: LayerKind, tp_size: int, dtype: str) -> int:
    """One decoder layer on one NPU. Norms and biases are not split and keep 16 bits."""
    hidden, attention = model.hidden_size, kind.attention
    heads = attention.num_heads // tp_size
    qkv_width = (heads + 2 * kv_heads_per_rank(attention, tp_size)) * attention.head_dim
    linear = hidden * qkv_width + heads * attention.head_dim * hidden
    linear += 3 * hidden * mlp_width(kind) // tp_size
    small = 2 * hidden + (2 * attention.head_dim if attention.has_qk_norm else 0)
    small += qkv_width + hidden if attention.has_bias else 0
    return linear * weight_bytes(dtype) + small * activation_bytes(dtype)


def mlp_width(kind: LayerKind) -> int:
    """Width of a layer's MLP over all ranks."""
    assert isinstance(kind.mlp, DenseMlp)
    return kind.mlp.intermediate_size


def embedding_weight_bytes(model: ModelSpec, tp_size: int, dtype: str) -> int:
    """Embedding table or lm_head on one NPU: split over ranks, padded as vLLM pads it, never 8-bit."""
    rows = -(-model.vocab_size // _VOCAB_PADDING) * _VOCAB_PADDING
    return -(-rows // tp_size) * model.hidden_size * activation_bytes(dtype)


def stage_weight_bytes(
    model: ModelSpec, tp_size: int, dtype: str, *, layers: Sequence[LayerGroup], first: bool, last: bool
) -> int:
    """Weights of one NPU of one stage. Tied embeddings stand once where one stage is both ends, else on
    both ends."""
    table = embedding_weight_bytes(model, tp_size, dtype)
    ends = int(first) + int(last)
    if first and last and model.tie_word_embeddings:
        ends = 1
    norm = model.hidden_size * activation_bytes(dtype) if last else 0
    blocks = sum(group.count * layer_weight_bytes(model, group.kind, tp_size, dtype) for group in layers)
    return blocks + ends * table + norm
