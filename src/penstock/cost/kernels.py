"""The work behind each kernel: multiplications and bytes, from the model's dimensions and the tp degree."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.cost.weights import activation_bytes, kv_bytes, kv_bytes_per_token_layer, weight_bytes
from penstock.spec.layers import (
    Attention,
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    LayerKind,
    LinearAttention,
)
from penstock.spec.model import ModelSpec

_LATENT_HEADS_PER_STREAM = 64
"""Query heads that read the latent cache together in FlashMLA's decode kernel."""

STATE_CHUNK = 64
"""Tokens that a gated delta network takes at once in prefill (flash-linear-attention's chunk size)."""


@dataclass(frozen=True, slots=True)
class Gemm:
    """``tokens`` x ``inner`` times ``inner`` x ``outer``: the weights are inner x outer."""

    inner: int
    outer: int
    weight_bytes: float
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A memory-bound kernel: bytes read and written per token (or per sequence)."""

    bytes_per_item: float


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Attention of one layer on one NPU.

    ``kv_heads`` are the streams of KV that are read in parallel. A query takes 2 x ``decode_width`` multiplications
    and additions per head and token of context as a decode, 2 x ``prefill_width`` in a chunk, whose history costs
    ``history_flops`` a token beside. ``window`` bounds the context. ``state_bytes`` are moved per sequence, or per
    ``STATE_CHUNK`` tokens of a chunk, and ``state_flops`` done per token of one, whatever the context.
    """

    heads: int
    kv_heads: int
    head_dim: int
    kv_bytes_per_token: int
    decode_width: int
    prefill_width: int
    history_flops: float = 0.0
    window: int | None = None
    state_bytes: float = 0.0
    state_flops: float = 0.0


@dataclass(frozen=True, slots=True)
class KernelSet:
    """All kernels of one kind of layer, and of the model's ends, on one NPU at one tp degree."""

    gemms: dict[str, Gemm]
    streams: dict[str, Stream]
    attention: AttentionShape


def kernel_set(model: ModelSpec, kind: LayerKind, tp_size: int, dtype: str, kv_cache_dtype: str) -> KernelSet:
    """The kernels that a profile of this model would list, for layers of one kind. Routed and shared experts are not
    among them: ``cost.expert_times`` has them."""
    hidden, a = model.hidden_size, activation_bytes(dtype)
    w = weight_bytes(model.attention_dtype or dtype)
    gemms, streams = _projections(kind.attention, hidden, tp_size, (w, a))
    streams |= {
        "embedding": Stream(2.0 * hidden * a),
        "layernorm": Stream(4.0 * hidden * a),
        "final_layernorm": Stream(4.0 * hidden * a),
        "sampler": Stream(4.0 * model.vocab_size * 4),
    }
    if isinstance(kind.mlp, DenseMlp):
        inner = kind.mlp.intermediate_size // tp_size
        gemms["gate_up_proj"] = Gemm(hidden, 2 * inner, weight_bytes(dtype), a)
        gemms["down_proj"] = Gemm(inner, hidden, weight_bytes(dtype), a)
        streams["act_fn"] = Stream(3.0 * inner * a)
    gemms["lm_head"] = Gemm(hidden, -(-model.vocab_size // tp_size), a, a)
    return KernelSet(gemms, streams, _attention(kind, tp_size, dtype, kv_cache_dtype))


def _projections(
    attention: Attention, hidden: int, tp_size: int, sizes: tuple[float, int]
) -> tuple[dict[str, Gemm], dict[str, Stream]]:
    """What stands around the attention kernel itself; ``sizes`` = bytes of (a weight, an activation)."""
    w, a = sizes
    if isinstance(attention, LatentAttention):
        heads = attention.num_heads // tp_size
        latent = attention.kv_lora_rank + attention.qk_rope_head_dim
        queries = heads * attention.qk_head_dim
        down, up = attention.q_lora_rank or 0, attention.q_lora_rank or hidden
        gemms = {
            # vLLM multiplies both down-projections at once; without a query latent the queries come whole.
            "qkv_a_proj": Gemm(hidden, latent + down, w, a),
            "q_b_proj": Gemm(up, queries, w, a),
            # In prefill the latent's own projection to keys and values, in decode the same absorbed into queries and
            # outputs: as many weights and multiplications per token.
            "kv_b_proj": Gemm(
                attention.kv_lora_rank, heads * (attention.qk_nope_head_dim + attention.v_head_dim), w, a
            ),
            "o_proj": Gemm(heads * attention.v_head_dim, hidden, w, a),
        }
        streams = {
            "latent_norm": Stream(2.0 * (latent + down) * a),
            "rotary_emb": Stream(2.0 * (heads + 1) * attention.qk_rope_head_dim * a),
        }
        return gemms, streams
    if isinstance(attention, LinearAttention):
        key = attention.num_key_heads // tp_size * attention.key_head_dim
        value = attention.num_value_heads // tp_size * attention.value_head_dim
        gates = 2 * attention.num_value_heads // tp_size
        gemms = {
            "qkv_proj": Gemm(hidden, 2 * key + 2 * value + gates, w, a),
            "o_proj": Gemm(value, hidden, w, a),
        }
        streams = {
            "conv": Stream(2.0 * (2 * key + value) * a),
            "qk_norm": Stream(3.0 * value * a),
        }
        return gemms, streams
    query = attention.num_heads // tp_size * attention.head_dim
    key = attention.kv_heads_per_rank(tp_size) * attention.head_dim
    gemms = {
        "qkv_proj": Gemm(hidden, query * (2 if attention.has_gate else 1) + 2 * key, w, a),
        "o_proj": Gemm(query, hidden, w, a),
    }
    streams = {"rotary_emb": Stream(2.0 * (query + key) * a)}
    if attention.has_qk_norm:
        streams["qk_norm"] = Stream(2.0 * (query + key) * a)
    return gemms, streams


def _attention(kind: LayerKind, tp_size: int, dtype: str, kv_cache_dtype: str) -> AttentionShape:
    attention = kind.attention
    per_token = kv_bytes_per_token_layer(kind, tp_size, dtype, kv_cache_dtype)
    if isinstance(attention, GroupedAttention):
        width = 2 * attention.head_dim
        return AttentionShape(
            heads=attention.num_heads // tp_size,
            kv_heads=attention.kv_heads_per_rank(tp_size),
            head_dim=attention.head_dim,
            kv_bytes_per_token=per_token,
            decode_width=width,
            prefill_width=width,
            window=attention.window,
        )
    if isinstance(attention, LatentAttention):
        heads = attention.num_heads // tp_size
        up = heads * (attention.qk_nope_head_dim + attention.v_head_dim)
        return AttentionShape(
            heads=heads,
            kv_heads=max(heads // _LATENT_HEADS_PER_STREAM, 1),
            head_dim=attention.qk_head_dim,
            kv_bytes_per_token=per_token,
            decode_width=2 * attention.kv_lora_rank + attention.qk_rope_head_dim,
            prefill_width=attention.qk_head_dim + attention.v_head_dim,
            # vLLM projects the latents of a chunk's history to keys and values again (MLACommonImpl).
            history_flops=2.0 * attention.kv_lora_rank * up,
        )
    heads = attention.num_value_heads // tp_size
    state = heads * attention.key_head_dim * attention.value_head_dim
    return AttentionShape(
        heads=heads,
        kv_heads=heads,
        head_dim=attention.value_head_dim,
        kv_bytes_per_token=0,
        decode_width=0,
        prefill_width=0,
        state_bytes=2.0 * state * kv_bytes(dtype, "auto"),
        state_flops=6.0 * state,  # decay and update of the state, and its reading
    )
