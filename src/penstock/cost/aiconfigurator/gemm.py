"""Matrix multiplications of any shape from those measured: interpolated in what they reach of the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.cost.aiconfigurator.wheel import read_rows
from penstock.cost.efficiency import Rates, gemm_roofline
from penstock.cost.kernels import Gemm
from penstock.cost.tables import Curve, FloatArray

FLOOR = 0.85
"""No kernel reads memory faster than this share of the bandwidth: where a measurement does, its weights stayed in the
second-level cache between two replays, where a model with many layers does not find them."""

DISTURBED = 1.5
"""A measurement that takes this many times longer than the slowest chip of like kind does for the same multiplication,
each by its own roofline, was disturbed. How many are: docs/costs.md."""

WITNESSES = 2
"""So many other chips of its kind must have measured the point: with one it cannot be told which was disturbed."""

_COLUMNS = ("m", "n", "k", "latency")


@dataclass(frozen=True, slots=True)
class GemmTable:
    """``us[i, j, k]`` of ``rows[i]`` tokens through weights of ``inner[k]`` x ``outer[j]``, NaN where not measured."""

    rows: FloatArray
    outer: FloatArray
    inner: FloatArray
    us: FloatArray

    def curve(self, gemm: Gemm, rates: Rates, kin: Kin = ()) -> Curve:
        """A multiplication over its tokens. A shape between those measured has their mean share of the roofline, by
        the logarithms of both sizes; one beyond them that of the last. ``kin`` are the tables of chips of like kind,
        whose slowest share stands in for a disturbed measurement."""
        outer, inner = _around(self.outer, gemm.outer), _around(self.inner, gemm.inner)
        logs = np.zeros((len(self.rows), len(outer) * len(inner)))
        weights = np.zeros(len(outer) * len(inner))
        corners = [(j, k) for j in outer for k in inner]
        for i, ((j, j_weight), (k, k_weight)) in enumerate(corners):
            corner = Gemm(int(self.inner[k]), int(self.outer[j]), gemm.weight_bytes, gemm.activation_bytes)
            own = self.log_shares(corner, self.rows, rates)
            logs[:, i] = undisturbed(own, [table.log_shares(corner, self.rows, at) for table, at in kin])
            weights[i] = j_weight * k_weight
        known = ~np.isnan(logs)
        total = (known * weights).sum(axis=1)
        usable = total > 0
        share = np.where(known, logs, 0.0)[usable] @ weights / total[usable]
        sizes = self.rows[usable]
        roof, _ = gemm_roofline(gemm, sizes, rates)
        floor = gemm.inner * gemm.outer * gemm.weight_bytes / (FLOOR * rates.bytes_per_us)
        return Curve(sizes, np.maximum(roof * np.exp(share), floor))

    def log_shares(self, gemm: Gemm, rows: FloatArray, rates: Rates) -> FloatArray:
        """Log of time over roofline for each of ``rows`` through exactly these weights, NaN where not measured."""
        at = [
            np.searchsorted(axis, size) for axis, size in ((self.outer, gemm.outer), (self.inner, gemm.inner))
        ]
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        if not (self.outer[at[0] :][:1] == gemm.outer and self.inner[at[1] :][:1] == gemm.inner):
            return np.full(len(rows), np.nan)
        us = np.where(self.rows[places] == rows, self.us[places, at[0], at[1]], np.nan)
        return np.log(us / gemm_roofline(gemm, rows, rates)[0])


Kin = Sequence[tuple[GemmTable, Rates]]


def undisturbed(own: FloatArray, others: Sequence[FloatArray]) -> FloatArray:
    """``own`` log shares, and where the ``others`` prove one disturbed, the slowest of theirs."""
    if len(others) < WITNESSES:
        return own
    table = np.array(others)
    slowest = np.where(np.isnan(table), -np.inf, table).max(axis=0)
    proven = ((~np.isnan(table)).sum(axis=0) >= WITNESSES) & (own > slowest + np.log(DISTURBED))
    return np.where(proven, slowest, own)


@dataclass(frozen=True, slots=True)
class QuantisationTable:
    """What the quantisation of a linear layer's input takes: ``us[i, k]`` of ``rows[i]`` tokens of ``inner[k]``."""

    rows: FloatArray
    inner: FloatArray
    us: FloatArray

    def at(self, rows: FloatArray, inner: int) -> FloatArray:
        """Microseconds for ``rows`` tokens, the same shape back; linear in both sizes."""
        by_width = [float(np.interp(inner, self.inner, own)) for own in self.us]
        beyond = max(inner / float(self.inner[-1]), 1.0)
        return np.interp(rows, self.rows, by_width) * beyond


def read_quantisation(paths: Sequence[Path]) -> QuantisationTable | None:
    """The sum of the tables at ``paths`` (the scale, and the scaling), None where one is missing.

    Raises:
        UserError: a file is broken.
    """
    total: QuantisationTable | None = None
    for path in paths:
        if not path.is_file():
            return None
        found = read_rows(path, ("m", "k", "latency"), {"quant_dtype": "fp8"}).to_numpy()
        rows, inner = np.unique(found[:, 0]), np.unique(found[:, 1])
        us = np.zeros((len(rows), len(inner)))
        us[np.searchsorted(rows, found[:, 0]), np.searchsorted(inner, found[:, 1])] = found[:, 2] * 1000.0
        total = QuantisationTable(rows, inner, us if total is None else total.us + us)
    return total


def read_gemms(path: Path, dtype: str) -> GemmTable | None:
    """The table of one ``gemm_dtype``, None where the engine has none.

    Raises:
        UserError: the file is broken.
    """
    found = read_rows(path, _COLUMNS, {"gemm_dtype": dtype}).to_numpy()
    if not len(found):
        return None
    axes = [np.unique(found[:, column]) for column in range(3)]
    us = np.full([len(axis) for axis in axes], np.nan)
    at = tuple(np.searchsorted(axis, found[:, column]) for column, axis in enumerate(axes))
    us[at] = found[:, 3] * 1000.0
    return GemmTable(axes[0], axes[1], axes[2], us)


def _around(axis: FloatArray, size: int) -> Sequence[tuple[int, float]]:
    """Positions and weights of the points around a size, one where it is a point or beyond them."""
    high = int(np.searchsorted(axis, size))
    if high == len(axis) or high == 0 or axis[high] == size:
        return [(min(high, len(axis) - 1), 1.0)]
    weight = float(np.log(size / axis[high - 1]) / np.log(axis[high] / axis[high - 1]))
    return [(high - 1, 1.0 - weight), (high, weight)]
