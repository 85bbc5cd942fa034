"""How far kernels stay behind the roofline: curves fitted over measured profiles.

The time of a kernel is its roofline (the larger of work over peak rate and bytes over bandwidth) times exp of a
sum of piecewise-linear functions of dimensionless or microsecond quantities, so that it transfers to chips by
their peak rates. The coefficients are in ``data/roofline.json``, written by ``penstock profile calibrate``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.kernels import STATE_CHUNK, AttentionShape, Gemm
from penstock.cost.tables import FloatArray

CALIBRATION = Path(__file__).resolve().parent.parent / "data" / "roofline.json"
Terms = Mapping[str, FloatArray]
LAUNCH_US = 2.0
"""Added to every roofline: no kernel takes less."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the chip can do at most, per microsecond."""

    flops_per_us: float
    bytes_per_us: float


@dataclass(frozen=True, slots=True)
class Efficiency:
    """``families[family][term]`` = (knots, values): log of time over roofline, linear between knots and constant
    beyond. ``errors[left out][family]`` = [p50, p90] of the transfer to what was left out."""

    families: Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]]
    errors: Mapping[str, Mapping[str, list[float]]]
    source: str

    def factor(self, family: str, terms: Terms) -> FloatArray:
        """Time over roofline for a family of kernels, the broadcast shape of ``terms``."""
        total: FloatArray | float = 0.0
        for name, (knots, values) in self.families[family].items():
            total = total + np.interp(terms[name], knots, values)
        return np.exp(total)

    def mixed_factor(self, terms: Terms) -> FloatArray:
        """Time of chunks and decodes in one kernel over the sum of their times apart, at most 1.

        The chips whose mixed steps were measured run FlashAttention 2, which lets a decode beside a chunk take a
        chunk's tile, so that a mixed step may take longer than its parts. An engine can always run the parts one
        after the other, so an estimate for another chip does not follow them there.
        """
        return np.minimum(self.factor("mixed", terms), 1.0)


@cache
def packaged_efficiency() -> Efficiency:
    """The calibration that comes with Penstock."""
    return efficiency_from_json(json.loads(CALIBRATION.read_text(encoding="utf-8")))


def efficiency_from_json(data: Mapping[str, Any]) -> Efficiency:
    """From the shape of ``roofline.json``."""
    families = {
        family: {
            term: (np.array(curve["knots"], dtype=np.float64), np.array(curve["values"], dtype=np.float64))
            for term, curve in terms.items()
        }
        for family, terms in data["families"].items()
    }
    return Efficiency(families, data["errors"], data["source"])


def gemm_roofline(gemm: Gemm, tokens: FloatArray, rates: Rates) -> tuple[FloatArray, Terms]:
    """Microseconds at the roofline, and the terms its efficiency depends on: ``balance`` (log2 of arithmetic
    over traffic time) and ``size`` (log2 of microseconds)."""
    compute = 2.0 * tokens * gemm.inner * gemm.outer / rates.flops_per_us
    moved = gemm.inner * gemm.outer * gemm.weight_bytes
    memory = (moved + tokens * (gemm.inner + gemm.outer) * gemm.activation_bytes) / rates.bytes_per_us
    roof = np.maximum(compute, memory) + LAUNCH_US
    return roof, {"balance": np.log2(compute / memory), "size": np.log2(roof)}


def stream_roofline(bytes_moved: FloatArray, rates: Rates) -> tuple[FloatArray, Terms]:
    """A memory-bound kernel: ``size`` is its only term."""
    roof = bytes_moved / rates.bytes_per_us + LAUNCH_US
    return roof, {"size": np.log2(roof)}


def decode_roofline(
    shape: AttentionShape, decodes: FloatArray, context: FloatArray, rates: Rates
) -> tuple[FloatArray, Terms]:
    """The larger of KV bytes and, where many heads share a latent, multiplications; ``parallel`` is log2 of independent
    KV streams, ``length`` of the context that is seen."""
    seen = context + 1.0 if shape.window is None else np.minimum(context + 1.0, shape.window)
    moved = decodes * seen * shape.kv_bytes_per_token + decodes * shape.state_bytes
    flops = decodes * seen * (2.0 * shape.heads * shape.decode_width)
    roof = np.maximum(moved / rates.bytes_per_us, flops / rates.flops_per_us) + LAUNCH_US
    return roof, {
        "size": np.log2(roof),
        "parallel": np.log2(decodes * shape.kv_heads),
        "length": np.log2(seen),
    }


def prefill_roofline(
    shape: AttentionShape, chunk: FloatArray, history: FloatArray, rates: Rates
) -> tuple[FloatArray, Terms]:
    """The larger of multiplications and KV bytes; ``parallel`` is log2 of query rows over all heads."""
    flops = 2.0 * shape.heads * shape.prefill_width * chunk * _mean_seen(chunk, history, shape.window)
    flops = flops + history * shape.history_flops + chunk * shape.state_flops
    before = history if shape.window is None else np.minimum(history, shape.window)
    moved = (before + chunk) * shape.kv_bytes_per_token + chunk * shape.state_bytes / STATE_CHUNK
    roof = np.maximum(flops / rates.flops_per_us, moved / rates.bytes_per_us) + LAUNCH_US
    return roof, {
        "size": np.log2(roof),
        "parallel": np.log2(chunk * shape.heads),
        "length": np.log2(history + chunk),
    }


def _mean_seen(chunk: FloatArray, history: FloatArray, window: int | None) -> FloatArray:
    """Tokens that a query of a chunk sees, itself included, on average over the chunk."""
    if window is None:
        return history + (chunk + 1.0) / 2.0
    growing = np.clip(window - history, 0.0, chunk)  # queries that still see everything before them
    return (growing * (history + (growing + 1.0) / 2.0) + (chunk - growing) * window) / chunk


def mixed_terms(
    prefill_us: FloatArray, decode_us: FloatArray, decodes: FloatArray, context: FloatArray, chunk: FloatArray
) -> Terms:
    """For chunks and decodes in one kernel, beside the sum of their times apart: ``share`` is log2 of decode
    over prefill time, ``size`` of the sum, the others of what they are named after."""
    return {
        "share": np.log2(decode_us / prefill_us),
        "decodes": np.log2(decodes),
        "context": np.log2(context + 1.0),
        "chunk": np.log2(chunk),
        "size": np.log2(prefill_us + decode_us),
    }
