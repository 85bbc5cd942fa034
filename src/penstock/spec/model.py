"""What a model is, as far as serving it goes: the dimensions of a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from penstock.spec.layers import LayerGroup, LayerKind, MoeMlp, StageLayers, count_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer: its layers as runs of like kinds, between an embedding and a head.

    ``dtype`` is the weights', ``expert_dtype`` that of routed experts and ``attention_dtype`` that of attention where
    a quantisation tells them apart. ``notes`` say what of the config is not part of the simulation.
    """

    name: str
    hidden_size: int
    layers: tuple[LayerGroup, ...]
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    has_norm_bias: bool = False
    has_head_bias: bool = False
    dtype: str = "bfloat16"
    expert_dtype: str | None = None
    attention_dtype: str | None = None
    model_type: str = "llama"
    notes: tuple[str, ...] = ()

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

    @property
    def norm_elements(self) -> int:
        """One norm over the hidden state."""
        return self.hidden_size * (2 if self.has_norm_bias else 1)

    @property
    def parameters(self) -> int:
        """All weights of the text model, every expert counted; without layers that predict further tokens (MTP)."""
        layers = sum(
            group.count
            * (
                group.kind.attention.weights(self.hidden_size, 1).total
                + group.kind.mlp.weights(self.hidden_size, 1).total
                + 2 * self.norm_elements
            )
            for group in self.layers
        )
        return layers + self.norm_elements + self._embedding + self._head

    @property
    def active_parameters(self) -> int:
        """Weights that one token passes, the embedding counted whole."""
        idle = sum(
            group.count
            * (
                group.kind.mlp.weights(self.hidden_size, 1).total
                - group.kind.mlp.active_weights(self.hidden_size).total
            )
            for group in self.layers
        )
        return self.parameters - idle

    @property
    def _embedding(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def _head(self) -> int:
        table = 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size
        return table + (self.vocab_size if self.has_head_bias else 0)

    def tensor_parallel_obstacle(self, tp_size: int, *, whole_experts: bool = False) -> str | None:
        """Why the model cannot be split over ``tp_size`` ranks, or None. KV heads are replicated where there are
        fewer than ranks. ``whole_experts``: the ranks share the experts out instead of splitting each."""
        for kind in self.kinds:
            mlp = kind.mlp
            own = (
                mlp.shared_obstacle(tp_size)
                if whole_experts and isinstance(mlp, MoeMlp)
                else mlp.obstacle(tp_size)
            )
            obstacle = kind.attention.obstacle(tp_size) or own
            if obstacle is not None:
                return f"{obstacle} of {self.name}"
        return None
