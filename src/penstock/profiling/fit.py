"""``penstock profile fit``: a measured bundle becomes a few hundred coefficients with their error stated."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.cost.architecture import Architecture
from penstock.cost.bundle import BundleAddress, read_attention_rows, read_bundle, tp_degrees
from penstock.cost.fitted import FIT_FORMAT
from penstock.cost.tables import Curve, FloatArray, KernelTables, SkewTable
from penstock.errors import Problem, UserError
from penstock.files.csv_text import named_rows
from penstock.files.writing import atomic_write
from penstock.profiling.attention_fit import fit_attention, predict, regimes
from penstock.profiling.segments import fit_segments
from penstock.spec.layers import MoeMlp
from penstock.spec.model import ModelSpec

_TOLERANCE = 0.04
_PIECES = {"lm_head": 8, "sampler": 6}
_DEFAULT_PIECES = 12
_HOLD_OUT = 0.2
_SEED = 11


@dataclass(frozen=True, slots=True)
class ErrorLine:
    """Relative error of a kernel (or of a regime of attention): percentiles over measured points, and the
    same at points held out of the fit where that was tried."""

    tp_size: int
    kernel: str
    points: int
    p50: float
    p90: float
    largest: float
    held_out_p50: float | None = None
    held_out_p90: float | None = None


@dataclass(frozen=True, slots=True)
class FitResult:
    """``data`` is the JSON of the fit; ``errors`` what it deviates from the measurement."""

    data: dict[str, Any]
    errors: tuple[ErrorLine, ...]
    coefficients: int


def fit_bundle(directory: Path, *, hardware: str, model: ModelSpec, variant: str, source: str) -> FitResult:
    """Fit every tp degree of the bundle in ``directory``.

    Raises:
        UserError: no bundle there, a broken one, or a model whose attention a fit cannot hold.
    """
    degrees = tp_degrees(directory)
    if not degrees:
        raise UserError([Problem(str(directory), "no profile bundle: needs tp<N>/dense.csv")])
    mixtures = (kind for kind in model.kinds if isinstance(kind.mlp, MoeMlp))
    architecture = Architecture.of(model, next(mixtures, model.kinds[0]))
    if architecture is None:
        raise UserError([Problem(str(directory), f"{model.name}: a fit holds grouped-query attention only")])
    parts: dict[str, Any] = {}
    errors: list[ErrorLine] = []
    for degree in degrees:
        address = BundleAddress(directory, degree)
        tables = read_bundle(address, hardware=hardware, model=model.name)
        rows = read_attention_rows(address.tables / "attention.csv")
        parts[str(degree)], own = fit_tables(tables, rows)
        errors += own
        if tables.skew is not None:
            parts[str(degree)]["skew"] = _fit_skew(tables.skew, address)
    data = {
        "format": FIT_FORMAT,
        "hardware": hardware,
        "model": model.name,
        "architecture": architecture.as_json(),
        "variant": variant,
        "source": source,
        "error": {
            f"tp{line.tp_size} {line.kernel}": [
                round(line.p50, 4),
                round(line.p90, 4),
                round(line.largest, 3),
            ]
            for line in errors
        },
        "tp": parts,
    }
    return FitResult(data, tuple(errors), sum(count_numbers(part) for part in parts.values()))


def fit_tables(tables: KernelTables, rows: FloatArray) -> tuple[dict[str, Any], list[ErrorLine]]:
    """Coefficients of one tp degree and their errors."""
    dense = {name: fit_curve(name, curve) for name, curve in tables.dense.items()}
    heads = {name: fit_curve(name, curve) for name, curve in tables.per_sequence.items()}
    attention = fit_attention(rows)
    errors = [
        curve_error(tables.tp_size, name, curve, (dense | heads)[name])
        for name, curve in (dict(tables.dense) | dict(tables.per_sequence)).items()
    ]
    errors += _attention_errors(tables.tp_size, rows, attention)
    part: dict[str, Any] = {
        "dense": {name: as_json(curve) for name, curve in dense.items()},
        "per_sequence": {name: as_json(curve) for name, curve in heads.items()},
        "attention": attention,
    }
    return part, errors


def fit_curve(name: str, curve: Curve) -> Curve:
    """A kernel's curve in straight pieces."""
    positive = curve.us > 0
    usable = Curve(curve.sizes[positive], curve.us[positive])
    return fit_segments(usable, max_pieces=_PIECES.get(name, _DEFAULT_PIECES), tolerance=_TOLERANCE)


def as_json(curve: Curve) -> dict[str, list[float]]:
    """A curve as a fit holds it."""
    return {
        "sizes": [float(size) for size in curve.sizes],
        "us": [float(f"{time:.4g}") for time in curve.us],
    }


def curve_error(tp_size: int, kernel: str, measured: Curve, fitted: Curve) -> ErrorLine:
    """How far a fitted curve is from the measured one, at its points."""
    positive = measured.us > 0
    return _line(tp_size, kernel, fitted.at(measured.sizes[positive]), measured.us[positive])


def _line(tp_size: int, kernel: str, fitted: FloatArray, measured: FloatArray) -> ErrorLine:
    error = np.abs(fitted / measured - 1)
    p50, p90 = np.percentile(error, [50, 90])
    return ErrorLine(tp_size, kernel, len(error), float(p50), float(p90), float(error.max()))


def _attention_errors(tp_size: int, rows: FloatArray, attention: Mapping[str, Any]) -> list[ErrorLine]:
    """By regime and over all; held-out errors from a second fit without a fifth of the points."""
    random = np.random.default_rng(_SEED)
    kept = random.random(len(rows)) >= _HOLD_OUT
    second = fit_attention(rows[kept])
    lines: list[ErrorLine] = []
    masks = {name: mask for name, mask in regimes(rows).items() if mask.any()}
    fitted, tried = np.zeros(len(rows)), np.zeros(len(rows))
    for name, mask in masks.items():
        fitted[mask] = predict(attention[name], rows[mask])
        tried[mask] = predict(second[name], rows[mask])
    masks = {**{f"attention, {name}": mask for name, mask in masks.items()}, "attention": rows[:, 4] > 0}
    for name, mask in masks.items():
        line = _line(tp_size, name, fitted[mask], rows[mask, 4])
        out = mask & ~kept
        error = np.abs(tried[out] / rows[out, 4] - 1)
        p50, p90 = np.percentile(error, [50, 90])
        lines.append(
            ErrorLine(tp_size, name, line.points, line.p50, line.p90, line.largest, float(p50), float(p90))
        )
    return lines


def _fit_skew(skew: SkewTable, address: BundleAddress) -> dict[str, Any]:
    """Alpha by number of decodes and skew rate, for decodes alone and beside chunks.

    Where the bundle holds the measurements (``skew.csv``), alphas are averaged with the weight that the
    relative time has in them; else the medians of the table's other bins.
    """
    raw = address.tables / "skew.csv"
    pure, mixed = np.median(skew.alpha[0], axis=(2, 3)), np.median(skew.alpha[1:], axis=(0, 3, 4))
    if raw.is_file():
        pure, mixed = _weighted_alphas(raw, skew, pure, mixed)
    return {
        "decode_edges": skew.decode_edges.tolist(),
        "rate_edges": skew.rate_edges.tolist(),
        "pure": np.round(pure, 3).tolist(),
        "mixed": np.round(mixed, 3).tolist(),
    }


def _weighted_alphas(
    path: Path, skew: SkewTable, pure: FloatArray, mixed: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Least squares of the relative time, so that a sample counts by (t_max - t_mean) / t_mean squared."""
    wanted = ("n", "pc", "kvs", "kv_big", "kv_mean", "t_mean_us", "t_max_us", "alpha")
    rows = [[row.get(name) or "nan" for name in wanted] for _, row in named_rows(path)]
    table = np.array(rows, dtype=np.float64).reshape(-1, len(wanted))
    table = table[np.isfinite(table).all(axis=1)]
    n, chunk, shortest, longest, mean, low, high, alpha = table.T
    rate = (mean - shortest) / np.maximum(longest - shortest, 1.0)
    weight = np.square((high - low) / low)
    i = np.searchsorted(skew.decode_edges, n, side="left")
    j = np.searchsorted(skew.rate_edges, rate, side="left")
    averaged: list[FloatArray] = []
    for mask, fallback in ((chunk == 0, pure), (chunk > 0, mixed)):
        total, moment = np.zeros(fallback.shape), np.zeros(fallback.shape)
        np.add.at(total, (i[mask], j[mask]), weight[mask])
        np.add.at(moment, (i[mask], j[mask]), (weight * alpha)[mask])
        averaged.append(np.where(total > 0, moment / np.maximum(total, 1e-12), fallback))
    return averaged[0], averaged[1]


def count_numbers(value: object) -> int:
    """How many numbers a part of a fit holds."""
    if isinstance(value, dict):
        return sum(count_numbers(inner) for inner in value.values())
    if isinstance(value, list):
        return sum(count_numbers(inner) for inner in value)
    return 1


def write_fit(result: FitResult, path: Path) -> None:
    """The fit as JSON, a row of numbers per line.

    Raises:
        UserError: the path cannot be written.
    """
    text = re.sub(
        r"\[\s+([^\[\]]*?)\s+\]",
        lambda found: "[" + re.sub(r"\s+", " ", found.group(1)) + "]",
        json.dumps(result.data, indent=1),
    )
    with atomic_write(path) as file:
        file.write(text + "\n")


def fit_report(result: FitResult) -> str:
    """Errors by kernel and tp degree, and the size of the fit."""
    lines = [f"{'tp':>3} {'kernel':<20}{'points':>7}{'p50':>8}{'p90':>8}{'max':>8}   held out p50, p90"]
    for line in result.errors:
        held = ""
        if line.held_out_p50 is not None and line.held_out_p90 is not None:
            held = f"   {line.held_out_p50:.1%}, {line.held_out_p90:.1%}"
        lines.append(
            f"{line.tp_size:>3} {line.kernel:<20}{line.points:>7}"
            f"{line.p50:>8.1%}{line.p90:>8.1%}{line.largest:>8.1%}{held}"
        )
    return "\n".join([*lines, f"{result.coefficients} coefficients"])
