"""How wide a model's weights are, from the dtype and the quantisation of its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from penstock.errors import nearest
from penstock.spec.config_members import ConfigMembers

_DTYPES = ("float16", "bfloat16", "float32")
_ATTENTION_NAMES = ("self_attn", "attn", "attention")


def read_dtypes(config: ConfigMembers) -> tuple[str, str | None, str | None]:
    """dtypes of (all weights, routed experts, attention); None where it is that of all weights.

    ``quantization_config`` (Hugging Face, vLLM ``model_executor/layers/quantization``): fp8 per tensor or by blocks;
    mxfp4, which leaves all but the experts as they are; nvfp4 of ModelOpt and compressed-tensors, which may leave
    attention out.
    """
    plain = _plain(config)
    quantization = config.data.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return plain, None, None
    found = cast("Mapping[str, Any]", quantization)
    method = str(found.get("quant_method"))
    if method == "mxfp4":
        return plain, "fp4", None
    if method == "fp8":
        return ("fp8_block" if found.get("weight_block_size") else "fp8"), None, None
    if method in ("modelopt", "modelopt_fp4") and "FP4" in str(found.get("quant_algo", "NVFP4")).upper():
        return "nvfp4", None, (plain if _leaves_attention(found) else None)
    if method == "modelopt" and str(found.get("quant_algo")).upper() == "FP8":
        return "fp8", None, None
    if method == "compressed-tensors" and found.get("format") == "nvfp4-pack-quantized":
        return "nvfp4", None, (plain if _leaves_attention(found) else None)
    if method == "compressed-tensors" and found.get("format") == "float-quantized":
        return "fp8", None, None
    known = "fp8, mxfp4, nvfp4 of modelopt and compressed-tensors"
    config.blame(
        "quantization_config",
        f"quantization '{method}' is not simulated ({known} are): leave quantization_config out and choose a dtype",
    )
    return plain, None, None


def _plain(config: ConfigMembers) -> str:
    """``torch_dtype`` or its newer name ``dtype``."""
    key = "torch_dtype" if config.has("torch_dtype") else "dtype"
    value = str(config.data.get(key) or "bfloat16").removeprefix("torch.")
    if value not in (*_DTYPES, "fp8", "int8"):
        config.blame(key, f"must be one of {', '.join(_DTYPES)}, not '{value}'{nearest(value, _DTYPES)}")
    return value


def _leaves_attention(quantization: Mapping[str, Any]) -> bool:
    """Whether the modules that stay unquantised are those of attention."""
    left_out = quantization.get("ignore") or quantization.get("exclude_modules") or []
    return any(name in str(entry) for entry in left_out for name in _ATTENTION_NAMES)
