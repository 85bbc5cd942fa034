"""Kernel times from a data sheet, held to what measured profiles reach of theirs.

What the transfer to hardware and models that were not measured is worth stands in the calibration, is printed
with every use, and tabulated in ``docs/costs.md``.
"""

from __future__ import annotations

import numpy as np

from penstock.cost.bundle import fill_shorter_chunks
from penstock.cost.efficiency import (
    Efficiency,
    Rates,
    decode_roofline,
    gemm_roofline,
    mixed_terms,
    packaged_efficiency,
    prefill_roofline,
    stream_roofline,
)
from penstock.cost.kernels import AttentionShape, Gemm, Stream, kernel_set
from penstock.cost.tables import AttentionGrid, Curve, FloatArray, KernelTables
from penstock.spec.hardware import HardwareSpec
from penstock.spec.layers import LayerKind
from penstock.spec.model import ModelSpec

_MLP = ("gate_up_proj", "down_proj")
_CONTEXTS = np.array([16.0 * 2 ** (k / 2) for k in range(27)]).round()
_HISTORIES = np.concatenate([[0.0], 64.0 * 2.0 ** np.arange(12)])
_DECODES = np.unique(np.concatenate([[0.0], np.round(2.0 ** (np.arange(21) / 2))]))


def hardware_rates(hardware: HardwareSpec, dtype: str) -> Rates:
    """Peak rates of a chip for matrices of ``dtype``."""
    return Rates(hardware.peak_flops_per_s(dtype) / 1e6, hardware.memory_bytes_per_s / 1e6)


def roofline_tables(
    hardware: HardwareSpec,
    model: ModelSpec,
    *,
    kind: LayerKind,
    tp_size: int,
    dtypes: tuple[str, str],
    max_tokens: int,
) -> KernelTables:
    """Tables for layers of one kind of a model on catalogued hardware; ``dtypes`` = (weights, KV cache)."""
    efficiency = packaged_efficiency()
    rates = hardware_rates(hardware, dtypes[0])
    own = {"attention": hardware_rates(hardware, model.attention_dtype or dtypes[0]), "mlp": rates}
    wide = hardware_rates(hardware, "float32" if dtypes[0] == "float32" else "bfloat16")
    kernels = kernel_set(model, kind, tp_size, *dtypes)
    tokens = token_grid(max_tokens)
    sequences = token_grid(512)
    dense = {
        name: Curve(tokens, gemm_us(gemm, tokens, own["mlp" if name in _MLP else "attention"], efficiency))
        for name, gemm in kernels.gemms.items()
        if name != "lm_head"
    }
    dense |= {
        name: Curve(tokens, stream_us(stream, "stream", tokens, (rates, efficiency)))
        for name, stream in kernels.streams.items()
        if name != "sampler"
    }
    return KernelTables(
        hardware=hardware.label,
        model=model.name,
        tp_size=tp_size,
        dense=dense,
        per_sequence={
            "lm_head": Curve(sequences, gemm_us(kernels.gemms["lm_head"], sequences, wide, efficiency)),
            "sampler": Curve(
                sequences, stream_us(kernels.streams["sampler"], "sampler", sequences, (rates, efficiency))
            ),
        },
        attention=attention_grid_us(kernels.attention, wide, efficiency, max_tokens),
        basis=(_basis(hardware, model, efficiency),),
    )


def _basis(hardware: HardwareSpec, model: ModelSpec, efficiency: Efficiency) -> str:
    errors = efficiency.errors["hardware"]
    told = ", ".join(f"{family} {p50:.0%} / {p90:.0%}" for family, (p50, p90) in errors.items())
    return (
        f"compute: no profile of {model.name} on {hardware.label}: an estimate, the roofline of its data sheet "
        f"({hardware.source}) calibrated on {efficiency.source}; left out of the calibration, a measured chip "
        f"was missed by (p50 / p90) {told}"
    )


def gemm_us(gemm: Gemm, tokens: FloatArray, rates: Rates, efficiency: Efficiency) -> FloatArray:
    """A matrix multiplication at ``tokens`` rows."""
    roof, terms = gemm_roofline(gemm, tokens, rates)
    return roof * efficiency.factor("gemm", terms)


def stream_us(stream: Stream, family: str, items: FloatArray, chip: tuple[Rates, Efficiency]) -> FloatArray:
    """A memory-bound kernel over ``items`` tokens or sequences."""
    rates, efficiency = chip
    roof, terms = stream_roofline(items * stream.bytes_per_item, rates)
    return roof * efficiency.factor(family, terms)


def decode_us(
    shape: AttentionShape, decodes: FloatArray, context: FloatArray, chip: tuple[Rates, Efficiency]
) -> FloatArray:
    """Attention of decodes alone."""
    roof, terms = decode_roofline(shape, decodes, context, chip[0])
    return roof * chip[1].factor("decode", terms)


def prefill_us(
    shape: AttentionShape, chunk: FloatArray, history: FloatArray, chip: tuple[Rates, Efficiency]
) -> FloatArray:
    """Attention of chunks alone."""
    roof, terms = prefill_roofline(shape, chunk, history, chip[0])
    return roof * chip[1].factor("prefill", terms)


def attention_grid_us(
    shape: AttentionShape, rates: Rates, efficiency: Efficiency, max_tokens: int
) -> AttentionGrid:
    """Attention of one layer over a grid that reaches 1024 decodes and 128K tokens of context. Chunks and decodes in
    one step take no less than the longer of both."""
    chunks = np.concatenate([[0.0], token_grid(max_tokens)[4::4]])
    chip = (rates, efficiency)
    us = np.empty((len(chunks), len(_DECODES), len(_HISTORIES), len(_CONTEXTS)))
    decode = decode_us(shape, _DECODES[1:, None], _CONTEXTS[None, :], chip)[None, :, None, :]
    prefill = prefill_us(shape, chunks[1:, None], _HISTORIES[None, :], chip)[:, None, :, None]
    us[0, 1:] = decode[0]
    us[1:, 0] = prefill[:, 0]
    terms = mixed_terms(
        prefill,
        decode,
        _DECODES[None, 1:, None, None],
        _CONTEXTS[None, None, None, :],
        chunks[1:, None, None, None],
    )
    together = (prefill + decode) * efficiency.mixed_factor(terms)
    us[1:, 1:] = np.maximum(together, np.maximum(prefill, decode))
    fill_shorter_chunks(us)
    return AttentionGrid(chunks, _DECODES, _HISTORIES, _CONTEXTS, us)


def token_grid(max_tokens: int) -> FloatArray:
    """1, 2, 4, 8, then eight points an octave from 16 up to at least ``max_tokens``."""
    octaves = max(int(np.ceil(np.log2(max(max_tokens, 32) / 16))), 1)
    fine = np.round(16 * 2 ** (np.arange(8 * octaves + 1) / 8))
    return np.unique(np.concatenate([[1.0, 2.0, 4.0, 8.0], fine]))
