"""A tp degree that was not profiled, from one that was: scaled by what the roofline says of both."""

from __future__ import annotations

from dataclasses import replace

from penstock.cost.kernels import KernelSet, kernel_set
from penstock.cost.tables import Curve, KernelTables
from penstock.spec.layers import LayerKind
from penstock.spec.model import ModelSpec

_LAUNCH_US = 3.0


def scale_to_tp(tables: KernelTables, model: ModelSpec, kind: LayerKind, tp_size: int) -> KernelTables:
    """Kernels that tp splits take their share of the time above a launch; the others stay as measured."""
    here = kernel_set(model, kind, tables.tp_size, "bfloat16", "auto")
    there = kernel_set(model, kind, tp_size, "bfloat16", "auto")
    shares = _shares(here, there)
    attention = tables.attention
    parts = [shape.kv_bytes_per_token or shape.heads for shape in (here.attention, there.attention)]
    share = parts[1] / parts[0]
    launch = min(float(attention.us.min()), 10.0)
    return replace(
        tables,
        tp_size=tp_size,
        dense={name: _scale(curve, shares.get(name, 1.0)) for name, curve in tables.dense.items()},
        per_sequence={name: _scale(c, shares.get(name, 1.0)) for name, c in tables.per_sequence.items()},
        attention=replace(attention, us=launch + (attention.us - launch) * share),
    )


def _shares(here: KernelSet, there: KernelSet) -> dict[str, float]:
    shares = {
        name: (gemm.inner * gemm.outer) / (here.gemms[name].inner * here.gemms[name].outer)
        for name, gemm in there.gemms.items()
    }
    shares |= {
        name: stream.bytes_per_item / here.streams[name].bytes_per_item
        for name, stream in there.streams.items()
    }
    return shares


def _scale(curve: Curve, share: float) -> Curve:
    launch = min(float(curve.us.min()), _LAUNCH_US)
    return Curve(curve.sizes, launch + (curve.us - launch) * share)
