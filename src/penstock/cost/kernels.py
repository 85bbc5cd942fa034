"""The work behind each kernel: multiplications and bytes, from the model's dimensions and the tp degree."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.cost.weights import (
    activation_bytes,
    kv_bytes_per_token_layer,
    kv_heads_per_rank,
    mlp_width,
    weight_bytes,
)
from penstock.spec.model import LayerKind, ModelSpec


@dataclass(frozen=True, slots=True)
class Gemm:
    """``tokens`` x ``inner`` times ``inner`` x ``outer``: the weights are inner x outer."""

    inner: int
    outer: int
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A memory-bound kernel: bytes read and written per token (or per sequence)."""

    bytes_per_item: float


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Attention of one layer on one NPU."""

    heads: int
    kv_heads: int
    head_dim: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class KernelSet:
    """All kernels of one kind of layer, and of the model's ends, on one NPU at one tp degree."""

    gemms: dict[str, Gemm]
    streams: dict[str, Stream]
    attention: AttentionShape


def kernel_set(model: ModelSpec, kind: LayerKind, tp_size: int, dtype: str, kv_cache_dtype: str) -> KernelSet:
    """The kernels that a profile of this model would list, for layers of one kind."""
    attention = kind.attention
    hidden, inner = model.hidden_size, mlp_width(kind) // tp_size
    heads, kv_heads = attention.num_heads // tp_size, kv_heads_per_rank(attention, tp_size)
    query, key = heads * attention.head_dim, kv_heads * attention.head_dim
    vocab = -(-model.vocab_size // tp_size)
    w, a = weight_bytes(dtype), activation_bytes(dtype)
    streams = {
        "embedding": Stream(2.0 * hidden * a),
        "layernorm": Stream(4.0 * hidden * a),
        "rotary_emb": Stream(2.0 * (query + key) * a),
        "act_fn": Stream(3.0 * inner * a),
        "final_layernorm": Stream(4.0 * hidden * a),
        "sampler": Stream(4.0 * model.vocab_size * 4),
    }
    if attention.has_qk_norm:
        streams["qk_norm"] = Stream(2.0 * (query + key) * a)
    return KernelSet(
        gemms={
            "qkv_proj": Gemm(hidden, query + 2 * key, w, a),
            "o_proj": Gemm(query, hidden, w, a),
            "gate_up_proj": Gemm(hidden, 2 * inner, w, a),
            "down_proj": Gemm(inner, hidden, w, a),
            "lm_head": Gemm(hidden, vocab, a, a),
        },
        streams=streams,
        attention=AttentionShape(
            heads,
            kv_heads,
            attention.head_dim,
            kv_bytes_per_token_layer(attention, tp_size, dtype, kv_cache_dtype),
        ),
    )
