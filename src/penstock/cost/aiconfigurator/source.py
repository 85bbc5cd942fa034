"""All kernels of a model's layer on a system, as tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock.cost.aiconfigurator.attention import AttentionFiles, attention_grid, decode_skew
from penstock.cost.aiconfigurator.gemm import (
    GemmTable,
    Kin,
    QuantisationTable,
    read_gemms,
    read_quantisation,
)
from penstock.cost.aiconfigurator.systems import System, find_system, like
from penstock.cost.aiconfigurator.wheel import PACKAGE, VERSION, Wheel
from penstock.cost.efficiency import Rates
from penstock.cost.kernels import Gemm, kernel_set
from penstock.cost.question import CostQuestion
from penstock.cost.roofline import hardware_rates, roofline_tables
from penstock.cost.tables import Curve, KernelTables
from penstock.spec.hardware import HardwareSpec, find_hardware
from penstock.spec.layers import GroupedAttention

GEMM_DTYPES = {
    "bfloat16": "bfloat16",
    "float16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
}
"""``gemm_dtype`` of weights."""

_MLP = ("gate_up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Covered:
    """A question that the database has measurements for."""

    system: System
    hardware: HardwareSpec
    weights: str
    kv_cache: str


def covered(question: CostQuestion) -> Covered | None:
    """What answers a question, as far as the names say; None where nothing does."""
    system, hardware = find_system(question.hardware), find_hardware(question.hardware)
    attention = question.kind.attention
    weights = GEMM_DTYPES.get(question.dtype)
    if system is None or hardware is None or weights is None or _own_dtype(question) not in GEMM_DTYPES:
        return None
    if not isinstance(attention, GroupedAttention) or attention.window is not None or attention.has_gate:
        return None
    return Covered(system, hardware, weights, "fp8" if question.kv_cache_dtype == "fp8" else "bfloat16")


def measured_tables(question: CostQuestion, found: Covered, wheel: Wheel) -> KernelTables | None:
    """The tables of a question, None where the engine lacks a kernel of it.

    Raises:
        UserError: a file of the wheel is broken.
    """
    name, engine = found.system.name, question.engine
    files = AttentionFiles(
        wheel.table(name, "attention", engine, "context_attention"),
        wheel.table(name, "attention", engine, "generation_attention"),
        found.kv_cache,
    )
    mlp, own, wide = (
        _read_matrices(found, wheel, engine, dtype)
        for dtype in (question.dtype, _own_dtype(question), "bfloat16")
    )
    dtypes = (question.dtype, question.kv_cache_dtype)
    kernels = kernel_set(question.model, question.kind, question.tp_size, *dtypes)
    wide_rates = hardware_rates(found.hardware, "bfloat16")
    longer = found.system.vllm_arithmetic if engine == "vllm" else 1.0
    grid = attention_grid(files, kernels.attention, found.system, wide_rates, longer)
    if mlp is None or own is None or wide is None or grid is None:
        return None
    estimate = roofline_tables(
        found.hardware,
        question.model,
        kind=question.kind,
        tp_size=question.tp_size,
        dtypes=dtypes,
        max_tokens=question.max_tokens,
    )
    quantisation = read_quantisation(
        [wheel.table(name, "quantize", engine, table) for table in ("computescale", "scale_matrix")]
    )
    dense, per_sequence = dict(estimate.dense), dict(estimate.per_sequence)
    for kernel, gemm in kernels.gemms.items():
        if kernel == "lm_head":
            per_sequence[kernel] = wide.curve(gemm)
        else:
            matrices = mlp if kernel in _MLP else own
            curve = matrices.curve(gemm)
            if matrices.dtype == "fp8":
                curve = _without_quantisation(curve, gemm.inner, quantisation)
            dense[kernel] = _longer(curve, longer)
    return KernelTables(
        hardware=found.hardware.label,
        model=question.model.name,
        tp_size=question.tp_size,
        dense=dense,
        per_sequence=per_sequence,
        attention=grid,
        skew=decode_skew(found.system.vllm_skew) if engine == "vllm" else None,
        basis=(_basis(question, found, wheel),),
    )


@dataclass(frozen=True, slots=True)
class _Matrices:
    """Multiplications by weights of one dtype on a chip, beside those of the chips of its kind."""

    dtype: str
    table: GemmTable
    rates: Rates
    kin: Kin

    def curve(self, gemm: Gemm) -> Curve:
        """A multiplication over its tokens."""
        return self.table.curve(gemm, self.rates, self.kin)


def _read_matrices(found: Covered, wheel: Wheel, engine: str, dtype: str) -> _Matrices | None:
    measured = GEMM_DTYPES[dtype]
    table = read_gemms(wheel.table(found.system.name, "gemm", engine, "gemm"), measured)
    if table is None:
        return None
    kin: list[tuple[GemmTable, Rates]] = []
    for label, system in like(found.system).items():
        path, hardware = wheel.table(system.name, "gemm", engine, "gemm"), find_hardware(label)
        other = read_gemms(path, measured) if path.is_file() else None
        if other is not None and hardware is not None:
            kin.append((other, hardware_rates(hardware, dtype)))
    return _Matrices(dtype, table, hardware_rates(found.hardware, dtype), kin)


def _without_quantisation(curve: Curve, inner: int, quantisation: QuantisationTable | None) -> Curve:
    """A linear layer as it runs in a compiled model. The tables time it alone, with a kernel that scales its input;
    compiled, the norm or activation before it does so in passing (vLLM ``compilation/fusion.py``)."""
    if quantisation is None:
        return curve
    return Curve(curve.sizes, np.maximum(curve.us - quantisation.at(curve.sizes, inner), 0.5 * curve.us))


def _longer(curve: Curve, factor: float) -> Curve:
    """What a multiplication takes beyond reading its weights, times ``factor``."""
    return Curve(curve.sizes, curve.us + (factor - 1.0) * (curve.us - curve.us[0]).clip(min=0.0))


def _own_dtype(question: CostQuestion) -> str:
    return question.model.attention_dtype or question.dtype


def _basis(question: CostQuestion, found: Covered, wheel: Wheel) -> str:
    engine = question.engine
    version = wheel.engine_version(found.system.name, engine)
    return (
        f"compute: kernels measured by AIConfigurator ({PACKAGE} {VERSION}, {found.system.name}, {engine} {version}): "
        f"matrices of {found.weights}, between shapes by their share of the roofline; attention over a KV cache of "
        f"{found.kv_cache}, chunks after a history by a physical core, beside decodes as the sum of both; norms, "
        "activation, rotary embedding and sampler by the roofline"
    )
