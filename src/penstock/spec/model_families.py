"""What the layers of each family of models are, read from its ``config.json``: attention and MLP, layer by layer.

Sources: the modules and configuration classes of Hugging Face transformers under the family's ``model_type``, and
vLLM's ``model_executor/models`` for windows and for which layers are a mixture of experts.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.spec.check import shown
from penstock.spec.config_members import ConfigMembers
from penstock.spec.layers import (
    Attention,
    DenseMlp,
    GroupedAttention,
    LatentAttention,
    LayerKind,
    LinearAttention,
    Mlp,
    MoeMlp,
)

DENSE_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "granite", "internlm2", "internlm3")
MOE_FAMILIES = (
    "mixtral",
    "phimoe",
    "qwen2_moe",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_5_moe",
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k2",
    "glm4_moe",
    "gpt_oss",
    "llama4",
    "minimax_m2",
    "olmoe",
)
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")

_MISSING = {
    "gpt2": "learned positions and an MLP without a gate",
    "deepseek_v32": "attention over the tokens that an indexer picks (index_topk)",
    "deepseek_v4": "attention over the tokens that an indexer picks, and hyper-connections",
    "glm_moe_dsa": "attention over the tokens that an indexer picks (index_topk)",
    "kimi_linear": "Kimi delta attention",
    "minimax": "lightning attention",
    "minimax_m1": "lightning attention",
    "mamba2": "state-space layers",
    "jamba": "state-space layers",
    "nemotron_h": "state-space layers",
    "granitemoehybrid": "state-space layers",
    "falcon_h1": "state-space layers",
    "gemma2": "norms after attention and MLP, and capped logits",
    "gemma3": "norms after attention and MLP",
    "gemma3_text": "norms after attention and MLP",
}
"""What a family needs that is not simulated."""

_ALIASES = {
    "phi_moe": "phimoe",
    "llama4_text": "llama4",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "deepseekv3": "deepseek_v3",
    "deepseekv2": "deepseek_v2",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "gptoss": "gpt_oss",
    "glm4moe": "glm4_moe",
    "minimaxm2": "minimax_m2",
    "qwen3next": "qwen3_next",
}
"""Other spellings, among them those that come of an ``architectures`` entry in lower case."""

_WIDTH_IS_THE_EXPERTS = ("mixtral", "phimoe", "gpt_oss", "llama4", "minimax_m2", "olmoe")
"""Families where ``intermediate_size`` is one expert's width."""

_HAS_CORRECTION_BIAS = ("deepseek_v3", "kimi_k2", "glm4_moe", "gpt_oss", "minimax_m2")
"""Families whose router has a bias per expert."""

_LINEAR_EVERY_BUT = {"qwen3_next": 4, "qwen3_5_moe": 4}
_NO_ROPE_INTERVAL = 4
"""Llama 4 has full attention, without rotary positions, on every fourth layer, and chunks on the others."""


def family_of(model_type: str) -> str:
    """The name of the family among DENSE_FAMILIES and MOE_FAMILIES, or ``model_type`` itself."""
    return _ALIASES.get(model_type, model_type)


def missing_for(family: str) -> str | None:
    """What a known family needs that is not simulated."""
    return _MISSING.get(family)


def read_layers(config: ConfigMembers, family: str) -> list[LayerKind]:
    """One kind per layer; mistakes go to the config's problems."""
    layers = config.count("num_hidden_layers")
    if layers > _MOST_LAYERS:
        config.blame("num_hidden_layers", f"must be <= {_MOST_LAYERS}, not {layers}")
        layers = 1
    attention = _attentions(config, family, layers)
    mlps = _mlps(config, family, layers)
    return [LayerKind(*parts) for parts in zip(attention, mlps, strict=True)]


_MOST_LAYERS = 4096


# --- attention ------------------------------------------------------------------------------------------------


def _attentions(config: ConfigMembers, family: str, layers: int) -> list[Attention]:
    if config.data.get("kv_lora_rank"):
        return [_latent(config)] * layers
    windows = _windows(config, family, layers)
    if family not in _LINEAR_EVERY_BUT:
        return [_grouped(config, family, window) for window in windows]
    full = _grouped(config, family, None)
    linear = _linear(config)
    return [linear if name == "linear_attention" else full for name in _layer_types(config, family, layers)]


def _grouped(config: ConfigMembers, family: str, window: int | None) -> GroupedAttention:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", heads)
    if heads % kv_heads:
        config.blame("num_key_value_heads", f"must divide num_attention_heads = {heads}, not {kv_heads}")
    if not config.has("head_dim") and hidden % heads and not config.problems:
        config.blame(
            "hidden_size", f"must be a multiple of num_attention_heads = {heads} where no head_dim is given"
        )
    bias_key = "qkv_bias" if config.has("qkv_bias") else "attention_bias"
    bias = config.flag(bias_key, family in ("qwen2", "qwen2_moe", "gpt_oss"))
    full_norm = family in ("minimax_m2", "olmoe")
    norm = family in ("qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_moe", "olmoe")
    if family in ("glm4_moe", "minimax_m2"):
        norm = config.flag("use_qk_norm", family == "minimax_m2")
    return GroupedAttention(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=config.count("head_dim", hidden // heads),
        window=window,
        has_qk_norm=norm,
        norm_over_heads=full_norm,
        has_bias=bias,
        has_output_bias=bias and family not in ("qwen2", "qwen2_moe", "glm4_moe"),
        has_sinks=family == "gpt_oss",
        has_gate=family in _LINEAR_EVERY_BUT,
    )


def _latent(config: ConfigMembers) -> LatentAttention:
    return LatentAttention(
        num_heads=config.count("num_attention_heads"),
        q_lora_rank=config.counter("q_lora_rank") or None,
        kv_lora_rank=config.count("kv_lora_rank"),
        qk_nope_head_dim=config.count("qk_nope_head_dim"),
        qk_rope_head_dim=config.count("qk_rope_head_dim"),
        v_head_dim=config.count("v_head_dim"),
        has_bias=config.flag("attention_bias", False),
    )


def _linear(config: ConfigMembers) -> LinearAttention:
    return LinearAttention(
        num_key_heads=config.count("linear_num_key_heads", 16),
        num_value_heads=config.count("linear_num_value_heads", 32),
        key_head_dim=config.count("linear_key_head_dim", 128),
        value_head_dim=config.count("linear_value_head_dim", 128),
        conv_kernel=config.count("linear_conv_kernel_dim", 4),
    )


def _windows(config: ConfigMembers, family: str, layers: int) -> Sequence[int | None]:
    """How far each layer sees: its window or chunk where that is shorter than the context, else None."""
    limit = config.count("max_position_embeddings")
    window = _shorter(config, "sliding_window", limit) if config.flag("use_sliding_window", True) else None
    chunk = _shorter(config, "attention_chunk_size", limit)
    if config.has("layer_types") or family in ("gpt_oss", "llama4"):
        reach = {"sliding_attention": window, "chunked_attention": chunk, "full_attention": None}
        return [reach.get(name) for name in _layer_types(config, family, layers)]
    if family in ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"):  # the lower layers see everything
        first = config.counter("max_window_layers", layers)
        window = window if config.data.get("use_sliding_window") else None
        return [None if layer < first else window for layer in range(layers)]
    return [window] * layers


def _shorter(config: ConfigMembers, key: str, limit: int) -> int | None:
    if not config.has(key):
        return None
    value = config.count(key)
    return value if value < limit else None


def _layer_types(config: ConfigMembers, family: str, layers: int) -> list[str]:
    """``layer_types`` as given, or as the family has them where it is not."""
    known = ["full_attention", "sliding_attention", "chunked_attention"]
    if family in _LINEAR_EVERY_BUT:
        known = ["full_attention", "linear_attention"]
    given = config.per_layer("layer_types", layers)
    if given is not None:
        for name in dict.fromkeys(map(str, given)):
            if name not in known:
                config.blame("layer_types", f"{shown(name)} is not simulated ({', '.join(known)})")
        return [str(name) for name in given]
    if family == "gpt_oss":
        return ["full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)]
    if family == "llama4":
        rope = config.per_layer("no_rope_layers", layers) or [
            (layer + 1) % _NO_ROPE_INTERVAL for layer in range(layers)
        ]
        return ["chunked_attention" if has_rope else "full_attention" for has_rope in rope]
    if family not in _LINEAR_EVERY_BUT:
        return ["full_attention"] * layers
    interval = config.count("full_attention_interval", _LINEAR_EVERY_BUT[family])
    return ["linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)]


# --- MLPs -----------------------------------------------------------------------------------------------------


def _mlps(config: ConfigMembers, family: str, layers: int) -> list[Mlp]:
    experts = config.first(EXPERT_COUNTS)
    if experts is None:
        return [DenseMlp(intermediate_size=config.count("intermediate_size"))] * layers
    sparse = [_is_sparse(config, family, layer) for layer in range(layers)]
    moe = _moe(config, family, experts)
    if all(sparse):
        return [moe] * layers
    key = "intermediate_size_mlp" if family == "llama4" else "intermediate_size"
    dense = DenseMlp(intermediate_size=config.count(key))
    return [moe if is_sparse else dense for is_sparse in sparse]


def _is_sparse(config: ConfigMembers, family: str, layer: int) -> bool:
    """Whether a layer is a mixture of experts."""
    if family == "llama4":
        given = config.data.get("moe_layers")
        if isinstance(given, list):
            return layer in given
        return (layer + 1) % config.count("interleave_moe_layer_step", 1) == 0
    if config.has("first_k_dense_replace"):
        return (
            layer >= config.counter("first_k_dense_replace")
            and layer % config.count("moe_layer_freq", 1) == 0
        )
    dense = config.data.get("mlp_only_layers")
    listed = isinstance(dense, list) and layer in dense
    return not listed and (layer + 1) % config.count("decoder_sparse_step", 1) == 0


def _moe(config: ConfigMembers, family: str, experts_key: str) -> MoeMlp:
    width_key = "intermediate_size" if family in _WIDTH_IS_THE_EXPERTS else "moe_intermediate_size"
    width = config.count(width_key)
    experts = config.count(experts_key)
    top_k_key = "num_experts_per_tok" if config.has("num_experts_per_tok") else "experts_per_token"
    top_k = config.count(top_k_key if config.has(top_k_key) else "num_experts_per_tok")
    if top_k > experts:
        config.blame(top_k_key, f"must be <= {experts_key} = {experts}, not {top_k}")
    if family == "llama4":
        shared = width
    else:
        shared = config.counter("shared_expert_intermediate_size") or width * config.counter(
            "n_shared_experts"
        )
    return MoeMlp(
        num_experts=experts,
        experts_per_token=top_k,
        intermediate_size=width,
        shared_intermediate_size=shared,
        has_shared_gate=family in ("qwen2_moe", "qwen3_next", "qwen3_5_moe"),
        has_router_bias=family in _HAS_CORRECTION_BIAS,
        has_expert_bias=family == "gpt_oss",
        expert_groups=config.count("n_group", 1),
        top_groups=config.count("topk_group", 1),
    )
