"""Bytes of a model: weights per stage and NPU, KV cache per token, activations."""

from __future__ import annotations

from penstock.spec.model import ModelSpec

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


def kv_heads_per_rank(model: ModelSpec, tp_size: int) -> int:
    """KV heads on one NPU; replicated when there are fewer than ranks (vLLM ``get_num_kv_heads``)."""
    return max(1, model.num_kv_heads // tp_size)


def kv_bytes_per_token_layer(model: ModelSpec, tp_size: int, dtype: str, kv_cache_dtype: str) -> int:
    """Keys and values of one token in one layer on one NPU."""
    return 2 * kv_heads_per_rank(model, tp_size) * model.head_dim * kv_bytes(dtype, kv_cache_dtype)


def layer_weight_bytes(model: ModelSpec, tp_size: int, dtype: str) -> int:
    """One decoder block on one NPU. Norms and biases are not split and keep 16 bits."""
    hidden = model.hidden_size
    heads = model.num_heads // tp_size
    qkv_width = (heads + 2 * kv_heads_per_rank(model, tp_size)) * model.head_dim
    linear = (
        hidden * qkv_width + heads * model.head_dim * hidden + 3 * hidden * model.intermediate_size // tp_size
    )
    small = 2 * hidden + (2 * model.head_dim if model.has_qk_norm else 0)
    small += qkv_width + hidden if model.has_attention_bias else 0
    return linear * weight_bytes(dtype) + small * activation_bytes(dtype)


def embedding_weight_bytes(model: ModelSpec, tp_size: int, dtype: str) -> int:
    """Embedding table or lm_head on one NPU: split over ranks, padded as vLLM pads it, never 8-bit."""
    rows = -(-model.vocab_size // _VOCAB_PADDING) * _VOCAB_PADDING
    return -(-rows // tp_size) * model.hidden_size * activation_bytes(dtype)


def stage_weight_bytes(
    model: ModelSpec, tp_size: int, dtype: str, *, layers: int, first: bool, last: bool
) -> int:
    """Weights of one NPU of one stage. Tied embeddings stand once where one stage is both ends, else on
    both ends."""
    table = embedding_weight_bytes(model, tp_size, dtype)
    ends = int(first) + int(last)
    if first and last and model.tie_word_embeddings:
        ends = 1
    norm = model.hidden_size * activation_bytes(dtype) if last else 0
    return layers * layer_weight_bytes(model, tp_size, dtype) + ends * table + norm
