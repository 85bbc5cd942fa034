"""Bytes of a model: weights per stage and NPU, KV cache per token, activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.spec.cluster import InstanceSpec
from penstock.spec.layers import LayerGroup, LayerKind, MoeMlp, StageLayers
from penstock.spec.model import ModelSpec

_DTYPE_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "fp8": 1,
    "fp8_block": 1 + 4 / 128**2,  # a 32-bit scale for each block of 128 x 128
    "int8": 1,
    "nvfp4": 0.5 + 1 / 16,  # an 8-bit scale for each 16 weights
    "fp4": 0.5 + 1 / 32,  # MXFP4: an 8-bit scale for each 32 weights
}
_VOCAB_PADDING = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one NPU of a stage holds of its layers.

    Attention, dense MLPs, shared experts, embedding and head are split over ``tp_size`` ranks and the same in
    every one of ``dp_size`` replicas. The routed experts of a layer, ``redundant_experts`` copies among them, are
    shared out over ``ep_size`` places, and split over the ranks of a place: in vLLM over dp_size x tp_size places of
    one rank, or one place of all ranks (``fused_moe/config.py: FusedMoEParallelConfig.make``).
    """

    tp_size: int
    dp_size: int = 1
    ep_size: int = 1
    redundant_experts: int = 0

    @property
    def sequence_parallel(self) -> bool:
        """Whether the tokens of a replica are split over its tp ranks before the experts, which also leaves shared
        experts whole on each (vLLM ``config/parallel.py: use_sequence_parallel_moe``)."""
        return self.ep_size > 1 and self.tp_size > 1 and self.dp_size > 1

    @property
    def expert_split(self) -> int:
        """Ranks that share one routed expert."""
        return self.tp_size * self.dp_size // self.ep_size

    @property
    def shared_split(self) -> int:
        """Ranks that share the shared experts."""
        return 1 if self.sequence_parallel else self.tp_size

    def local_experts(self, moe: MoeMlp) -> int:
        """Routed experts, copies included, on the rank that has the most."""
        return -(-(moe.num_experts + self.redundant_experts) // self.ep_size)


def shard_of(instance: InstanceSpec, tp_size: int | None = None) -> Shard:
    """What one NPU of an instance holds; of the same instance at another ``tp_size`` where that is given."""
    experts = instance.experts
    own, ranks = instance.tp_size * instance.dp_size, (tp_size or instance.tp_size) * instance.dp_size
    places = experts.ep_size
    if ranks != own:
        places = ranks if places == own else min(places, ranks)
    return Shard(
        tp_size=tp_size or instance.tp_size,
        dp_size=instance.dp_size,
        ep_size=places if ranks % places == 0 else 1,
        redundant_experts=experts.redundant_experts,
    )


def weight_bytes(dtype: str) -> float:
    """Bytes of one element of a linear layer's weights, its share of the scales included."""
    return _DTYPE_BYTES[dtype]


def activation_bytes(dtype: str) -> int:
    """Bytes of one element between layers: narrow weights are multiplied from 16-bit activations."""
    return 4 if dtype == "float32" else 2


def kv_bytes(dtype: str, kv_cache_dtype: str) -> int:
    """Bytes of one KV element: "auto" is the activations' width."""
    return activation_bytes(dtype) if kv_cache_dtype == "auto" else round(_DTYPE_BYTES[kv_cache_dtype])


def kv_bytes_per_token_layer(kind: LayerKind, tp_size: int, dtype: str, kv_cache_dtype: str) -> int:
    """What the KV cache holds of one token in one layer on one NPU."""
    return kind.attention.kv_elements_per_token(tp_size) * kv_bytes(dtype, kv_cache_dtype)


def kv_bytes_per_token(layers: StageLayers, tp_size: int, dtype: str, kv_cache_dtype: str) -> int:
    """What the KV cache holds of one token in all layers of a stage on one NPU."""
    return sum(
        group.count * kv_bytes_per_token_layer(group.kind, tp_size, dtype, kv_cache_dtype) for group in layers
    )


def layer_weight_bytes(model: ModelSpec, kind: LayerKind, shard: Shard, dtype: str) -> int:
    """One decoder layer on one NPU. Norms, biases and routers are as wide as activations."""
    hidden, wide = model.hidden_size, activation_bytes(dtype)
    attention = kind.attention.weights(hidden, shard.tp_size)
    vectors = 2 * model.norm_elements + attention.vectors
    total = round(attention.matrices * weight_bytes(model.attention_dtype or dtype))
    if isinstance(kind.mlp, MoeMlp):
        expert = kind.mlp.expert_weights(hidden, shard.expert_split)
        shared = kind.mlp.shared_weights(hidden, shard.shared_split)
        local = shard.local_experts(kind.mlp)
        total += round(local * expert.matrices * weight_bytes(model.expert_dtype or dtype))
        total += round(shared.matrices * weight_bytes(dtype))
        vectors += local * expert.vectors + shared.vectors + kind.mlp.router_elements(hidden)
    else:
        mlp = kind.mlp.weights(hidden, shard.tp_size)
        total += round(mlp.matrices * weight_bytes(dtype))
        vectors += mlp.vectors
    return total + vectors * wide


def embedding_weight_bytes(model: ModelSpec, tp_size: int, dtype: str) -> int:
    """Embedding table or lm_head on one NPU: split over ranks, padded as vLLM pads it, never 8-bit."""
    rows = -(-model.vocab_size // _VOCAB_PADDING) * _VOCAB_PADDING
    return -(-rows // tp_size) * model.hidden_size * activation_bytes(dtype)


def stage_weight_bytes(
    model: ModelSpec, shard: Shard, dtype: str, *, layers: Sequence[LayerGroup], first: bool, last: bool
) -> int:
    """Weights of one NPU of one stage. Tied embeddings stand once where one stage is both ends, else on
    both ends."""
    table = embedding_weight_bytes(model, shard.tp_size, dtype)
    ends = int(first) + int(last)
    if first and last and model.tie_word_embeddings:
        ends = 1
    norm = model.norm_elements * activation_bytes(dtype) if last else 0
    blocks = sum(group.count * layer_weight_bytes(model, group.kind, shard, dtype) for group in layers)
    return blocks + ends * table + norm
