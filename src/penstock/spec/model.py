"""What a model is, as far as serving it goes: the dimensions of a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionKind:
    """Grouped-query attention of one layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    has_qk_norm: bool = False
    has_bias: bool = False

    def tensor_parallel_obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share it, or None; said without the model's name."""
        if self.num_heads % tp_size:
            return f"tp {tp_size} must divide the {self.num_heads} attention heads"
        if max(tp_size, self.num_kv_heads) % min(tp_size, self.num_kv_heads):
            return f"tp {tp_size} must divide, or be a multiple of, the {self.num_kv_heads} KV heads"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseMlp:
    """A gated MLP that every token passes."""

    intermediate_size: int

    def tensor_parallel_obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share it, or None."""
        if self.intermediate_size % tp_size:
            return f"tp {tp_size} must divide the MLP's width {self.intermediate_size}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeMlp:
    """A mixture of experts, each a gated MLP. Recognised, not simulated yet."""

    num_experts: int
    experts_per_token: int
    expert_intermediate_size: int

    def tensor_parallel_obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share each expert, or None."""
        if self.expert_intermediate_size % tp_size:
            return f"tp {tp_size} must divide the experts' width {self.expert_intermediate_size}"
        return None


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What a decoder layer is made of. Layers of one kind cost the same."""

    attention: AttentionKind
    mlp: DenseMlp | MoeMlp


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """A run of ``count`` layers of one kind that follow each other."""

    kind: LayerKind
    count: int


StageLayers = tuple[LayerGroup, ...]
"""The layers of one pipeline stage, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer: its layers as runs of like kinds, between an embedding and a head."""

    name: str
    hidden_size: int
    layers: tuple[LayerGroup, ...]
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    dtype: str = "bfloat16"
    model_type: str = "llama"

    @property
    def num_layers(self) -> int:
        """Decoder layers of all kinds."""
        return count_layers(self.layers)

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of its layers, each once, by first appearance."""
        return tuple(dict.fromkeys(group.kind for group in self.layers))

    @property
    def moe(self) -> MoeMlp | None:
        """The mixture of experts of its layers, None for a dense model."""
        return next((kind.mlp for kind in self.kinds if isinstance(kind.mlp, MoeMlp)), None)

    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """One entry per layer, first to last."""
        return tuple(group.kind for group in self.layers for _ in range(group.count))

    def cut(self, counts: Sequence[int]) -> tuple[StageLayers, ...]:
        """The layers of each stage, where stage s holds the next ``counts[s]``; they sum to ``num_layers``."""
        rest = list(self.layers)
        stages: list[StageLayers] = []
        for count in counts:
            stage: list[LayerGroup] = []
            while count:
                taken = min(count, rest[0].count)
                stage.append(replace(rest[0], count=taken))
                count -= taken
                if taken == rest[0].count:
                    rest.pop(0)
                else:
                    rest[0] = replace(rest[0], count=rest[0].count - taken)
            stages.append(tuple(stage))
        return tuple(stages)

    def tensor_parallel_obstacle(self, tp_size: int) -> str | None:
        """Why the model cannot be split over ``tp_size`` ranks, or None. KV heads are replicated where there are
        fewer than ranks."""
        for part in dict.fromkeys(part for kind in self.kinds for part in (kind.attention, kind.mlp)):
            obstacle = part.tensor_parallel_obstacle(tp_size)
            if obstacle is not None:
                return f"{obstacle} of {self.name}"
        return None


def count_layers(layers: Sequence[LayerGroup]) -> int:
    """How many layers the runs hold together."""
    return sum(group.count for group in layers)


def uniform_layers(
    count: int,
    *,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    intermediate_size: int,
    has_qk_norm: bool = False,
) -> tuple[LayerGroup, ...]:
    """``count`` like layers of grouped-query attention and a dense MLP, without biases."""
    attention = AttentionKind(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, has_qk_norm=has_qk_norm
    )
    return (LayerGroup(LayerKind(attention, DenseMlp(intermediate_size=intermediate_size)), count),)
