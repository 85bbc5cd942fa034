"""What kernel times are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.spec.layers import LayerKind
from penstock.spec.model import ModelSpec

_VARIANTS = {
    "bfloat16": ("bf16", "fp16"),
    "float16": ("fp16", "bf16"),
    "float32": ("fp32",),
    "fp8": ("fp8",),
    "fp8_block": ("fp8_block", "fp8"),
    "int8": ("int8",),
    "nvfp4": ("nvfp4",),
    "fp4": ("fp4",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostQuestion:
    """What kernel times are wanted for: layers of one kind of a model. ``max_tokens`` is the most a step can hold.
    ``engine``: whose kernels, vllm | sglang | trtllm. ``lookup``: linear | llmservingsim, how they are read between
    measured points."""

    hardware: str
    model: ModelSpec
    kind: LayerKind
    tp_size: int
    dtype: str
    kv_cache_dtype: str
    max_tokens: int
    engine: str = "vllm"
    lookup: str = "linear"

    def variants(self) -> tuple[str, ...]:
        """Names of bundle variants that fit the dtypes, the exact one first (16-bit types weigh the same)."""
        suffix = "-kvfp8" if self.kv_cache_dtype == "fp8" else ""
        return tuple(name + suffix for name in _VARIANTS[self.dtype])
