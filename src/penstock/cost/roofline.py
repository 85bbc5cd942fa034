"""Kernel times from a data sheet: work over peak rate x efficiency, plus a launch.

The efficiencies are calibrated constants, fitted over the measured profiles at hand; what they are worth on
hardware and models that were not measured stands in ``docs/costs.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.cost.kernels import AttentionShape, Gemm, Stream, kernel_set
from penstock.cost.tables import AttentionGrid, Curve, FloatArray, KernelTables
from penstock.spec.hardware import HardwareSpec
from penstock.spec.model import ModelSpec

_KV_GRID = np.array([16.0 * 2**k for k in range(14)])
_HISTORY_GRID = np.concatenate([[0.0], _KV_GRID])
_DECODE_GRID = np.concatenate([[0.0], 2.0 ** np.arange(11)])


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fractions of peak reached by large kernels, and the microseconds that the smallest one takes."""

    gemm_compute: float = 0.82
    gemm_memory: float = 0.85
    gemm_launch_us: float = 3.0
    stream_memory: float = 0.75
    stream_launch_us: float = 2.5
    attention_compute: float = 0.45
    attention_memory: float = 0.80
    attention_launch_us: float = 9.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What the chip can do at most, per microsecond."""

    flops_per_us: float
    bytes_per_us: float


def roofline_tables(
    hardware: HardwareSpec,
    model: ModelSpec,
    *,
    tp_size: int,
    dtypes: tuple[str, str],
    max_tokens: int,
) -> KernelTables:
    """Tables for a model on catalogued hardware; ``dtypes`` = (weights, KV cache)."""
    calibration = Calibration()
    rates = Rates(hardware.peak_flops_per_s(dtypes[0]) / 1e6, hardware.memory_bytes_per_s / 1e6)
    wide = Rates(hardware.peak_flops_per_s("bfloat16") / 1e6, rates.bytes_per_us)
    kernels = kernel_set(model, tp_size, *dtypes)
    tokens = _token_grid(max_tokens)
    sequences = np.unique(np.concatenate([[1.0], _token_grid(512)]))
    dense = {
        name: Curve(tokens, gemm_us(gemm, tokens, rates, calibration))
        for name, gemm in kernels.gemms.items()
        if name != "lm_head"
    }
    dense |= {
        name: Curve(tokens, stream_us(stream, tokens, rates, calibration))
        for name, stream in kernels.streams.items()
        if name != "sampler"
    }
    return KernelTables(
        hardware=hardware.label,
        model=model.name,
        tp_size=tp_size,
        dense=dense,
        per_sequence={
            "lm_head": Curve(sequences, gemm_us(kernels.gemms["lm_head"], sequences, wide, calibration)),
            "sampler": Curve(sequences, stream_us(kernels.streams["sampler"], sequences, rates, calibration)),
        },
        attention=attention_us(kernels.attention, wide, calibration, max_tokens),
        basis=(
            (
                f"compute: no profile of {model.name} on {hardware.label}: roofline from its data sheet "
                f"({hardware.source}), an estimate"
            ),
        ),
    )


def gemm_us(gemm: Gemm, tokens: FloatArray, rates: Rates, calibration: Calibration) -> FloatArray:
    """The larger of arithmetic and traffic, plus a launch; tokens rounded up to tiles of 16 (64 from 64 on)."""
    tile = np.where(tokens > 64, 64.0, 16.0)
    rows = np.ceil(tokens / tile) * tile
    compute = 2.0 * rows * gemm.inner * gemm.outer / (rates.flops_per_us * calibration.gemm_compute)
    moved = gemm.inner * gemm.outer * gemm.weight_bytes
    traffic = moved + tokens * (gemm.inner + gemm.outer) * gemm.activation_bytes
    memory = traffic / (rates.bytes_per_us * calibration.gemm_memory)
    return np.maximum(compute, memory) + calibration.gemm_launch_us


def stream_us(stream: Stream, items: FloatArray, rates: Rates, calibration: Calibration) -> FloatArray:
    """Bytes over bandwidth, plus a launch."""
    rate = rates.bytes_per_us * calibration.stream_memory
    return items * stream.bytes_per_item / rate + calibration.stream_launch_us


def attention_us(
    shape: AttentionShape, rates: Rates, calibration: Calibration, max_tokens: int
) -> AttentionGrid:
    """KV bytes over bandwidth for the decodes, arithmetic for the chunks, plus a launch."""
    chunks = np.concatenate([[0.0], _token_grid(max_tokens)[3:]])
    chunk = chunks[:, None, None, None]
    decodes = _DECODE_GRID[None, :, None, None]
    history = _HISTORY_GRID[None, None, :, None]
    context = _KV_GRID[None, None, None, :]
    kv_rate = rates.bytes_per_us * calibration.attention_memory
    pairs = chunk * (history + (chunk + 1) / 2)
    flops = 4.0 * shape.heads * shape.head_dim * pairs
    prefill = np.maximum(
        flops / (rates.flops_per_us * calibration.attention_compute),
        np.where(chunk > 0, (history + chunk) * shape.kv_bytes_per_token / kv_rate, 0.0),
    )
    decode = decodes * (context + 1) * shape.kv_bytes_per_token / kv_rate
    us = prefill + decode + calibration.attention_launch_us
    return AttentionGrid(chunks, _DECODE_GRID, _HISTORY_GRID, _KV_GRID, us)


def _token_grid(max_tokens: int) -> FloatArray:
    """1, 2, 4, ... 16, then eight points an octave up to at least ``max_tokens``."""
    octaves = max(int(np.ceil(np.log2(max(max_tokens, 32) / 16))), 1)
    fine = np.round(16 * 2 ** (np.arange(8 * octaves + 1) / 8))
    return np.unique(np.concatenate([[1.0, 2.0, 4.0, 8.0], fine]))
