"""Measured (or modelled) kernel times as arrays: what every source of costs is turned into.

A profile bundle, a packaged fit and the roofline all end as one :class:`KernelTables`, so the simulation has
one way of looking times up, whatever they rest on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from penstock.cost.attention import AttentionLookup

FloatArray = npt.NDArray[np.float64]

DENSE_BLOCK_LAYERS = (
    "layernorm",
    "qkv_proj",
    "qkv_a_proj",
    "latent_norm",
    "q_b_proj",
    "kv_b_proj",
    "conv",
    "qk_norm",
    "rotary_emb",
    "o_proj",
    "gate_up_proj",
    "act_fn",
    "down_proj",
    "moe",
)
"""Kernels of one decoder block that depend on the number of tokens alone; layernorm runs twice."""

DENSE_EDGE_LAYERS = ("embedding", "final_layernorm")
PER_SEQUENCE_LAYERS = ("lm_head", "sampler")


@dataclass(frozen=True, slots=True)
class Curve:
    """Time over one size, linear between points: ``sizes`` ascending, ``us`` microseconds, both (n,).

    Below the first point the first time holds. Above the last the slope of the upper half of the range
    goes on: GEMM times climb in steps of whole tiles, and two neighbouring points mostly share a step.
    """

    sizes: FloatArray
    us: FloatArray

    def at(self, sizes: npt.ArrayLike) -> FloatArray:
        """Microseconds at ``sizes`` (any shape, the same shape back)."""
        wanted = np.asarray(sizes, dtype=np.float64)
        times = np.interp(wanted, self.sizes, self.us)
        top = float(self.sizes[-1])
        if len(self.sizes) < 2 or not np.any(wanted > top):
            return times
        half = float(np.interp(top / 2, self.sizes, self.us))
        slope = max((float(self.us[-1]) - half) / (top - max(top / 2, float(self.sizes[0]))), 0.0)
        return np.where(wanted > top, self.us[-1] + slope * (wanted - top), times)


@dataclass(frozen=True, slots=True)
class AttentionGrid:
    """Attention of one layer: ``us[c, n, p, k]`` microseconds over the product of four axes.

    ``chunks``: a step's summed new prefill tokens (first entry 0); ``decodes``: number of decodes (first
    entry 0); ``prefill_contexts``: the chunks' summed history; ``decode_contexts``: the decodes' mean.
    """

    chunks: FloatArray
    decodes: FloatArray
    prefill_contexts: FloatArray
    decode_contexts: FloatArray
    us: FloatArray


@dataclass(frozen=True, slots=True)
class SkewTable:
    """How far a decode batch of unequal contexts lies between the time at its mean and at its longest.

    ``alpha[c, n, r, b, p]`` for the nearest profiled chunk in ``chunks`` and the bins (right edge included,
    the first bin open below, the last open above) of ``decode_edges``, ``rate_edges`` (skew rate),
    ``longest_edges`` (longest context) and ``prefill_edges`` (the chunks' history).
    ``default`` stands where nothing was measured.
    """

    chunks: FloatArray
    decode_edges: FloatArray
    rate_edges: FloatArray
    longest_edges: FloatArray
    prefill_edges: FloatArray
    alpha: FloatArray
    default: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTables:
    """All kernels of one model on one hardware at one tensor-parallel degree.

    ``dense`` is keyed by DENSE_BLOCK_LAYERS and DENSE_EDGE_LAYERS over tokens, ``per_sequence`` by
    PER_SEQUENCE_LAYERS over sequences. ``lookup`` reads the attention, None as
    :class:`~penstock.cost.attention.AttentionLookup` does. ``basis`` are sentences for the summary.
    """

    hardware: str
    model: str
    tp_size: int
    dense: Mapping[str, Curve]
    per_sequence: Mapping[str, Curve]
    attention: AttentionGrid
    skew: SkewTable | None = None
    lookup: type[AttentionLookup] | None = None
    basis: tuple[str, ...] = ()

    def block_us(self, tokens: npt.ArrayLike) -> FloatArray:
        """One decoder block without its attention and collectives, microseconds at ``tokens``."""
        total = np.zeros(np.shape(tokens))
        for layer in DENSE_BLOCK_LAYERS:
            if layer in self.dense:
                total += self.dense[layer].at(tokens) * (2 if layer == "layernorm" else 1)
        return total

    def head_us(self, sequences: npt.ArrayLike) -> FloatArray:
        """lm_head and sampler, microseconds at ``sequences``."""
        total = np.zeros(np.shape(sequences))
        for layer in PER_SEQUENCE_LAYERS:
            if layer in self.per_sequence:
                total += self.per_sequence[layer].at(sequences)
        return total


def interpolate(at: FloatArray, sizes: FloatArray, values: FloatArray) -> FloatArray:
    """Linear interpolation along axis 0 of ``values`` (n, ...) to ``at`` (m,): shape (m, ...).

    Above the last point the last two extrapolate; below the first the first holds.
    """
    if len(sizes) == 1:
        return np.repeat(values[:1], len(at), axis=0)
    low = np.clip(np.searchsorted(sizes, at, side="right") - 1, 0, len(sizes) - 2)
    weight = np.maximum((at - sizes[low]) / (sizes[low + 1] - sizes[low]), 0.0)
    shape = (-1,) + (1,) * (values.ndim - 1)
    weight = weight.reshape(shape)
    return values[low] * (1 - weight) + values[low + 1] * weight
