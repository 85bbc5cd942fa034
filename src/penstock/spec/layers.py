"""What a decoder layer is made of: kinds of attention, kinds of MLP, and runs of like layers.

Sizes are those of the whole model; ``weights`` and ``kv_elements_per_token`` give what one of ``tp_size``
tensor-parallel ranks holds of them, in elements. Formulas follow the modules of Hugging Face transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Weights(NamedTuple):
    """Elements: of ``matrices``, which quantisation applies to, and of ``vectors`` (norms, biases, sinks, routers),
    which stay as wide as activations."""

    matrices: int
    vectors: int

    @property
    def total(self) -> int:
        """Elements of both."""
        return self.matrices + self.vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedAttention:
    """Grouped-query attention. ``num_kv_heads`` = ``num_heads`` makes it multi-head attention.

    ``window`` is how many tokens a token sees at most (sliding window or chunk), None for all before it.
    ``norm_over_heads``: one norm over the queries of all heads instead of one shared by the heads.
    ``has_gate``: the query projection also gives a gate for the output (Qwen3-Next).
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None
    has_qk_norm: bool = False
    norm_over_heads: bool = False
    has_bias: bool = False
    has_output_bias: bool = False
    has_sinks: bool = False
    has_gate: bool = False

    def kv_heads_per_rank(self, tp_size: int) -> int:
        """KV heads on one rank; replicated when there are fewer than ranks (vLLM ``get_num_kv_heads``)."""
        return max(1, self.num_kv_heads // tp_size)

    def kv_elements_per_token(self, tp_size: int) -> int:
        """Keys and values of one token."""
        return 2 * self.kv_heads_per_rank(tp_size) * self.head_dim

    def state_elements(self, tp_size: int) -> int:
        """Elements that a sequence holds whatever its length: none."""
        del tp_size
        return 0

    def weights(self, hidden: int, tp_size: int) -> Weights:
        """Projections of queries, keys, values and output; norms, biases, sinks."""
        heads, kv_heads = self.num_heads // tp_size, self.kv_heads_per_rank(tp_size)
        query = heads * self.head_dim
        qkv = query * (2 if self.has_gate else 1) + 2 * kv_heads * self.head_dim
        vectors = 0
        if self.has_qk_norm:
            vectors += (heads + kv_heads if self.norm_over_heads else 2) * self.head_dim
        if self.has_bias:
            vectors += qkv
        if self.has_output_bias:
            vectors += hidden
        if self.has_sinks:
            vectors += heads
        return Weights(hidden * qkv + query * hidden, vectors)

    def obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share it, or None; said without the model's name."""
        if self.num_heads % tp_size:
            return f"tp {tp_size} must divide the {self.num_heads} attention heads"
        if max(tp_size, self.num_kv_heads) % min(tp_size, self.num_kv_heads):
            return f"tp {tp_size} must divide, or be a multiple of, the {self.num_kv_heads} KV heads"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434): the cache holds one latent per token, which all
    heads share, so every tensor-parallel rank stores all of it. ``q_lora_rank`` None: queries are projected at once."""

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    has_bias: bool = False
    window: int | None = None

    @property
    def qk_head_dim(self) -> int:
        """Width of a head's queries and keys."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    def kv_elements_per_token(self, tp_size: int) -> int:
        """The latent and the rotated part of the keys, the same on every rank."""
        del tp_size
        return self.kv_lora_rank + self.qk_rope_head_dim

    def state_elements(self, tp_size: int) -> int:
        """Elements that a sequence holds whatever its length: none."""
        del tp_size
        return 0

    def weights(self, hidden: int, tp_size: int) -> Weights:
        """Down-projections whole on every rank, the others split by heads; norms of the latents."""
        heads = self.num_heads // tp_size
        latent = self.kv_lora_rank + self.qk_rope_head_dim
        matrices = hidden * latent
        matrices += self.kv_lora_rank * heads * (self.qk_nope_head_dim + self.v_head_dim)
        matrices += heads * self.v_head_dim * hidden
        vectors = self.kv_lora_rank
        if self.q_lora_rank is None:
            matrices += hidden * heads * self.qk_head_dim
        else:
            matrices += hidden * self.q_lora_rank + self.q_lora_rank * heads * self.qk_head_dim
            vectors += self.q_lora_rank
        if self.has_bias:
            vectors += latent + hidden + (self.q_lora_rank or 0)
        return Weights(matrices, vectors)

    def obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share it, or None."""
        if self.num_heads % tp_size:
            return f"tp {tp_size} must divide the {self.num_heads} attention heads"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """A gated delta network (Qwen3-Next, Qwen3.5): no KV cache, but a state per sequence of fixed size."""

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    window: int | None = None

    def kv_elements_per_token(self, tp_size: int) -> int:
        """None: the state does not grow."""
        del tp_size
        return 0

    def state_elements(self, tp_size: int) -> int:
        """The recurrent state (a matrix per value head) and the convolution's last inputs, of one sequence."""
        key, value = self._widths(tp_size)
        state = self.num_value_heads // tp_size * self.key_head_dim * self.value_head_dim
        return state + (self.conv_kernel - 1) * (2 * key + value)

    def weights(self, hidden: int, tp_size: int) -> Weights:
        """Projections to q, k, v, z, b and a, and of the output; the convolution, decays, and the output's norm."""
        key, value = self._widths(tp_size)
        heads = self.num_value_heads // tp_size
        matrices = hidden * (2 * key + 2 * value + 2 * heads) + value * hidden
        vectors = self.conv_kernel * (2 * key + value) + 2 * heads + self.value_head_dim
        return Weights(matrices, vectors)

    def _widths(self, tp_size: int) -> tuple[int, int]:
        return (
            self.num_key_heads // tp_size * self.key_head_dim,
            self.num_value_heads // tp_size * self.value_head_dim,
        )

    def obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share it, or None."""
        for heads, what in ((self.num_key_heads, "key"), (self.num_value_heads, "value")):
            if heads % tp_size:
                return f"tp {tp_size} must divide the {heads} {what} heads of the linear attention"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseMlp:
    """A gated MLP that every token passes."""

    intermediate_size: int

    def weights(self, hidden: int, tp_size: int) -> Weights:
        """Gate, up and down projection."""
        return Weights(3 * hidden * self.intermediate_size // tp_size, 0)

    def active_weights(self, hidden: int) -> Weights:
        """What one token passes: all."""
        return self.weights(hidden, 1)

    def obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share it, or None."""
        if self.intermediate_size % tp_size:
            return f"tp {tp_size} must divide the MLP's width {self.intermediate_size}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeMlp:
    """A mixture of experts, each a gated MLP, of which a router picks ``experts_per_token``.

    ``intermediate_size`` is one expert's. ``shared_intermediate_size`` is the width of the experts that every
    token passes, together; 0 where there are none. ``expert_groups``, ``top_groups``: the router picks groups
    before experts (DeepSeek-V3), so a token's experts lie in ``top_groups`` of them.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    has_shared_gate: bool = False
    has_router_bias: bool = False
    has_expert_bias: bool = False
    expert_groups: int = 1
    top_groups: int = 1

    def expert_weights(self, hidden: int, tp_size: int) -> Weights:
        """One expert, or one rank's part of it."""
        width = self.intermediate_size // tp_size
        return Weights(3 * hidden * width, 2 * width + hidden if self.has_expert_bias else 0)

    def shared_weights(self, hidden: int, tp_size: int) -> Weights:
        """The shared experts, and the gate of their sum."""
        width = self.shared_intermediate_size // tp_size
        return Weights(3 * hidden * width, hidden if self.has_shared_gate else 0)

    def router_elements(self, hidden: int) -> int:
        """The router, whole on every rank."""
        return self.num_experts * (hidden + (1 if self.has_router_bias else 0))

    def weights(self, hidden: int, tp_size: int) -> Weights:
        """All experts, the shared ones and the router; each expert split over ``tp_size`` ranks."""
        return self._with(self.num_experts, hidden, tp_size)

    def active_weights(self, hidden: int) -> Weights:
        """What one token passes: its experts, the shared ones and the router."""
        return self._with(self.experts_per_token, hidden, 1)

    def _with(self, experts: int, hidden: int, tp_size: int) -> Weights:
        expert, shared = self.expert_weights(hidden, tp_size), self.shared_weights(hidden, tp_size)
        return Weights(
            experts * expert.matrices + shared.matrices,
            experts * expert.vectors + shared.vectors + self.router_elements(hidden),
        )

    def obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share each expert, or None. With expert parallelism they need not."""
        if self.intermediate_size % tp_size:
            return f"tp {tp_size} must divide the experts' width {self.intermediate_size}"
        return self.shared_obstacle(tp_size)

    def shared_obstacle(self, tp_size: int) -> str | None:
        """Why ``tp_size`` ranks cannot share the shared experts, or None."""
        if self.shared_intermediate_size % tp_size:
            return f"tp {tp_size} must divide the shared experts' width {self.shared_intermediate_size}"
        return None


Attention = GroupedAttention | LatentAttention | LinearAttention
Mlp = DenseMlp | MoeMlp


@dataclass(frozen=True, slots=True)
class LayerKind:
    """What a decoder layer is made of. Layers of one kind cost the same."""

    attention: Attention
    mlp: Mlp


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """A run of ``count`` layers of one kind that follow each other."""

    kind: LayerKind
    count: int


StageLayers = tuple[LayerGroup, ...]
"""The layers of one pipeline stage, in order."""


def count_layers(layers: Sequence[LayerGroup]) -> int:
    """How many layers the runs hold together."""
    return sum(group.count for group in layers)


def layer_runs(kinds: Sequence[LayerKind]) -> tuple[LayerGroup, ...]:
    """Runs of like layers, from one kind per layer."""
    runs: list[LayerGroup] = []
    for kind in kinds:
        if runs and runs[-1].kind == kind:
            runs[-1] = LayerGroup(kind, runs[-1].count + 1)
        else:
            runs.append(LayerGroup(kind, 1))
    return tuple(runs)


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
    attention = GroupedAttention(
        num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, has_qk_norm=has_qk_norm
    )
    return (LayerGroup(LayerKind(attention, DenseMlp(intermediate_size=intermediate_size)), count),)
