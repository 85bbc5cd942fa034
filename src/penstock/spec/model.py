"""What a model is, as far as serving it goes: the dimensions of a Hugging Face ``config.json``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeSpec:
    """A mixture-of-experts MLP. Recognised, not simulated yet."""

    num_experts: int
    experts_per_token: int
    expert_intermediate_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A decoder-only transformer with grouped-query attention and a gated MLP."""

    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    has_qk_norm: bool = False
    has_attention_bias: bool = False
    dtype: str = "bfloat16"
    model_type: str = "llama"
    moe: MoeSpec | None = None

    def tensor_parallel_obstacle(self, tp_size: int) -> str | None:
        """Why the model cannot be split over ``tp_size`` ranks, or None. KV heads are replicated where there are
        fewer than ranks."""
        if self.num_heads % tp_size:
            return f"tp {tp_size} must divide the {self.num_heads} attention heads of {self.name}"
        if self.intermediate_size % tp_size:
            return f"tp {tp_size} must divide the MLP's width {self.intermediate_size} of {self.name}"
        if max(tp_size, self.num_kv_heads) % min(tp_size, self.num_kv_heads):
            return f"tp {tp_size} must divide, or be a multiple of, the {self.num_kv_heads} KV heads"
        return None
