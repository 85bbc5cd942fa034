"""Packaged fits: a few hundred coefficients per hardware, model and tp degree, evaluated into tables.

A fit is a JSON file written by ``penstock profile fit``. Its kernels of tokens or sequences are piecewise
linear. Attention has three regimes (decodes alone, chunks alone, both), each a physical core times a
correction: t = (sum of coefficient x feature) * exp(c), where the features are launch, KV bytes read and
multiplications done, and c is a sum over ranks of products of one piecewise-linear function per axis, over
the logarithms of the sizes. Beyond the measured range the correction stays at its edge and the core goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np

from penstock.cost.architecture import Architecture
from penstock.cost.bundle import add_unmeasured_mixes, separate_grid
from penstock.cost.tables import AttentionGrid, Curve, FloatArray, KernelTables, SkewTable
from penstock.errors import Problem, UserError

FIT_FORMAT = 1
PACKAGED_FITS = Path(__file__).resolve().parent.parent / "data" / "fits"
AXIS_SHIFT = {"chunk": 0.0, "history": 64.0, "decodes": 0.0, "context": 0.0}
"""Added before taking the logarithm, for axes that reach 0."""


def core_features(
    chunk: FloatArray, history: FloatArray, decodes: FloatArray, context: FloatArray
) -> list[FloatArray]:
    """Launch, the chunks' own work, their history, their multiplications, the decodes' queries and KV, and the
    longest sequence of the step, which no parallelism shortens. Arrays broadcast against each other."""
    one = np.ones(np.broadcast_shapes(chunk.shape, history.shape, decodes.shape, context.shape))
    return [
        one,
        one * chunk,
        one * history,
        one * chunk * history,
        one * chunk * chunk,
        one * decodes,
        one * decodes * context,
        one * context,
        one * np.maximum(history + chunk, context),
    ]


def hat_basis(sizes: FloatArray, knots: FloatArray) -> FloatArray:
    """Piecewise-linear basis over ``knots`` (k,) at ``sizes`` (n,), both already on the axis' scale: (n, k)."""
    low = np.clip(np.searchsorted(knots, sizes, side="right") - 1, 0, max(len(knots) - 2, 0))
    basis = np.zeros((len(sizes), len(knots)))
    rows = np.arange(len(sizes))
    if len(knots) == 1:
        basis[:, 0] = 1.0
        return basis
    weight = np.clip((sizes - knots[low]) / (knots[low + 1] - knots[low]), 0.0, 1.0)
    basis[rows, low] = 1.0 - weight
    basis[rows, low + 1] += weight
    return basis


def axis_scale(name: str, sizes: FloatArray) -> FloatArray:
    """Sizes on the logarithmic scale that the correction of axis ``name`` is linear on."""
    return np.log2(np.maximum(sizes + AXIS_SHIFT[name], 1.0))


@dataclass(frozen=True, slots=True)
class FoundFit:
    """A packaged fit: its file, the variant of dtypes it is of, and what it was measured of."""

    path: Path
    variant: str
    data: Mapping[str, Any]
    architecture: Architecture


def find_fit(
    labels: Sequence[str], wanted: Architecture, variants: Sequence[str], *, without_mlp: bool
) -> FoundFit | None:
    """The packaged fit of one of the hardware ``labels`` whose layers have the dimensions of ``wanted``, whatever the
    model was called; the first of ``variants`` that there is. ``without_mlp``: for all of a layer but its MLP."""
    for label, variant in product(labels, variants):
        for path in sorted(PACKAGED_FITS.glob(fit_name(label, "*", variant))):
            data = _packaged(path)
            architecture = Architecture.from_json(data["architecture"])
            if architecture.answers(wanted, without_mlp=without_mlp):
                return FoundFit(path, variant, data, architecture)
    return None


def packaged_fits() -> tuple[tuple[str, str, str], ...]:
    """(hardware, model, variant) of every packaged fit."""
    found: list[tuple[str, str, str]] = []
    for path in sorted(PACKAGED_FITS.glob("*.json")):
        hardware, *model, variant = path.stem.split("--")
        found.append((hardware, "/".join(model), variant))
    return tuple(found)


@cache
def _packaged(path: Path) -> Mapping[str, Any]:
    return read_fit(path)


def fit_name(hardware: str, model: str, variant: str) -> str:
    """The file name of a fit."""
    return f"{hardware}--{model.replace('/', '--')}--{variant}.json"


def read_fit(path: Path) -> dict[str, Any]:
    """The JSON of a fit.

    Raises:
        UserError: unreadable, not JSON, or of another format.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError([Problem(str(path), f"cannot be read as a fit: {error}")]) from error
    if not isinstance(data, dict) or cast("dict[str, Any]", data).get("format") != FIT_FORMAT:
        raise UserError([Problem(str(path), f"is not a fit of format {FIT_FORMAT}")])
    return cast("dict[str, Any]", data)


def fit_degrees(fit: Mapping[str, Any]) -> tuple[int, ...]:
    """The tp degrees a fit holds, ascending."""
    return tuple(sorted(int(degree) for degree in fit["tp"]))


def tables_from_fit(fit: Mapping[str, Any], tp_size: int) -> KernelTables:
    """Evaluate one tp degree of a fit."""
    part = fit["tp"][str(tp_size)]
    return KernelTables(
        hardware=fit["hardware"],
        model=fit["model"],
        tp_size=tp_size,
        dense={name: _curve(value) for name, value in part["dense"].items()},
        per_sequence={name: _curve(value) for name, value in part["per_sequence"].items()},
        attention=attention_from_fit(part["attention"])
        if "measured_up_to" in part["attention"]
        else attention_from_tables(part["attention"]),
        skew=_skew(part.get("skew")),
    )


def _curve(value: Mapping[str, Sequence[float]]) -> Curve:
    return Curve(np.array(value["sizes"], dtype=np.float64), np.array(value["us"], dtype=np.float64))


def attention_from_fit(part: Mapping[str, Any]) -> AttentionGrid:
    """All three regimes on one grid, two points an octave over the measured range."""
    top = part["measured_up_to"]
    chunks = np.concatenate([[0.0], _octaves(16.0, top["chunk"])])
    decodes = np.concatenate([[0.0], _octaves(1.0, top["decodes"])])
    history = np.concatenate([[0.0], _octaves(64.0, top["history"])])
    context = _octaves(16.0, top["context"])
    us = np.full((len(chunks), len(decodes), len(history), len(context)), np.nan)
    zero = np.zeros(1)
    alone = regime_us(part["decode"], zero, decodes[1:], zero, context)
    us[0, 1:] = alone[0]
    only = regime_us(part["prefill"], chunks[1:], zero, history, np.ones(1))
    us[1:, 0] = only[:, 0]
    us[0, 0] = us[1, 0]
    if "mixed" in part:
        us[1:, 1:] = regime_us(part["mixed"], chunks[1:], decodes[1:], history, context)
    else:
        add_unmeasured_mixes(us)
    return AttentionGrid(chunks, decodes, history, context, us)


def attention_from_tables(part: Mapping[str, Any]) -> AttentionGrid:
    """Attention that was packed as its tables: prompts by length, ``history_us`` per token before them, decodes by
    number and context."""
    lengths, prompts, slope = (np.array(part[name]) for name in ("lengths", "prompt_us", "history_us"))
    counts, contexts = (
        np.array(part["decodes"], dtype=np.float64),
        np.array(part["contexts"], dtype=np.float64),
    )
    return separate_grid(
        (lengths.astype(np.float64), prompts, slope), (counts, contexts, np.array(part["decode_us"]))
    )


def regime_us(
    regime: Mapping[str, Any],
    chunk: FloatArray,
    decodes: FloatArray,
    history: FloatArray,
    context: FloatArray,
) -> FloatArray:
    """Microseconds of one regime over the product of four axes, shape (chunk, decodes, history, context)."""
    axes = {"chunk": chunk, "decodes": decodes, "history": history, "context": context}
    spread = {
        name: sizes.reshape([-1 if k == i else 1 for k in range(4)])
        for i, (name, sizes) in enumerate(axes.items())
    }
    features = core_features(spread["chunk"], spread["history"], spread["decodes"], spread["context"])
    core = sum(
        (weight * feature for weight, feature in zip(regime["core"], features, strict=True) if weight),
        start=np.zeros(features[0].shape),
    )
    rank = regime["rank"]
    factors = [np.ones((len(sizes), rank)) for sizes in axes.values()]
    for i, (name, sizes) in enumerate(axes.items()):
        if name in regime["factors"]:
            own = regime["factors"][name]
            basis = hat_basis(axis_scale(name, sizes), np.array(own["knots"], dtype=np.float64))
            factors[i] = basis @ np.array(own["values"], dtype=np.float64)
    left = (factors[0][:, None, :] * factors[1][None, :, :]).reshape(-1, rank)
    right = (factors[2][:, None, :] * factors[3][None, :, :]).reshape(-1, rank)
    return core * np.exp((left @ right.T).reshape(core.shape))


def _octaves(first: float, last: float) -> FloatArray:
    count = max(int(np.ceil(np.log2(max(last, first) / first) * 2)), 0)
    points = np.round(first * 2.0 ** (np.arange(count + 1) / 2))
    points = np.append(points[points < last], last)
    # They ascend: what equals its neighbour stands once. NumPy's unique() imports its masked arrays first.
    return points[np.diff(points, prepend=0.0) > 0]


def _skew(part: Mapping[str, Any] | None) -> SkewTable | None:
    """``pure`` and ``mixed`` are (decodes, rate): what else a profile's table tells apart is averaged out."""
    if part is None:
        return None
    alpha = np.stack([np.array(part[name], dtype=np.float64) for name in ("pure", "mixed")])
    empty = np.zeros(0)
    return SkewTable(
        np.array([0.0, 4.0]),
        np.array(part["decode_edges"], dtype=np.float64),
        np.array(part["rate_edges"], dtype=np.float64),
        empty,
        empty,
        alpha[..., None, None],
    )
