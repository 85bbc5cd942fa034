"""Fits attention: a physical core by non-negative least squares, times a low-rank correction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.cost.fitted import axis_scale, core_features, hat_basis
from penstock.cost.tables import FloatArray

BoolArray = npt.NDArray[np.bool_]

AXES = ("chunk", "history", "decodes", "context")
"""Columns of the measured points, in the order of ``attention.csv``."""

_RANKS = {"decode": 4, "decode apart": 4, "prefill": 2, "mixed": 12}
_KNOTS_PER_OCTAVE = {
    ("prefill", "chunk"): 2.0,
    ("mixed", "history"): 0.75,
    ("decode apart", "decodes"): 2.0,
    ("decode apart", "context"): 2.0,
}
_USUAL_HISTORY, _USUAL_CONTEXT, _USUAL_WEIGHT = 2048.0, (256.0, 4096.0), 3.0
_ITERATIONS = 25
_RIDGE = 1e-4
_SEED = 7


def fit_attention(rows: FloatArray) -> dict[str, Any]:
    """Coefficients of each regime that was measured, from points (n, 5), for ``cost.fitted``."""
    parts: dict[str, Any] = {}
    masks = regimes(rows)
    for name, chosen in masks.items():
        if chosen.any():
            apart = name == "decode" and not masks["mixed"].any()
            parts[name] = _fit_regime("decode apart" if apart else name, rows[chosen])
    parts["measured_up_to"] = {axis: float(rows[:, i].max()) for i, axis in enumerate(AXES)}
    return parts


def regimes(rows: FloatArray) -> dict[str, BoolArray]:
    """Which points belong to decodes alone, chunks alone, both: boolean masks."""
    chunk, decodes = rows[:, 0] > 0, rows[:, 2] > 0
    return {"decode": ~chunk & decodes, "prefill": chunk & ~decodes, "mixed": chunk & decodes}


def predict(regime: Mapping[str, Any], rows: FloatArray) -> FloatArray:
    """Microseconds of a regime at measured points (n, >=4): shape (n,)."""
    columns = {name: rows[:, i] for i, name in enumerate(AXES)}
    features = core_features(columns["chunk"], columns["history"], columns["decodes"], columns["context"])
    core = np.stack(features, axis=1) @ np.array(regime["core"])
    product = np.ones((len(rows), regime["rank"]))
    for name, factor in regime["factors"].items():
        basis = hat_basis(axis_scale(name, columns[name]), np.array(factor["knots"]))
        product *= basis @ np.array(factor["values"])
    return core * np.exp(product.sum(axis=1))


def _fit_regime(regime: str, rows: FloatArray) -> dict[str, Any]:
    rank = _RANKS[regime]
    chunk, history, decodes, context, us = rows.T
    features = np.stack(core_features(chunk, history, decodes, context), axis=1)
    core = nonnegative_least_squares(features / us[:, None], np.ones(len(us)))
    base = features @ core
    knots = {
        name: _knots(axis_scale(name, rows[:, i]), _KNOTS_PER_OCTAVE.get((regime, name), 1.0))
        for i, name in enumerate(AXES)
        if len(np.unique(rows[:, i])) > 1
    }
    bases = [hat_basis(axis_scale(name, rows[:, AXES.index(name)]), own) for name, own in knots.items()]
    factors = alternating_least_squares(bases, np.log(us / base), _weights(rows), rank)
    return {
        "core": [_short(value) for value in core],
        "rank": rank,
        "factors": {
            name: {
                "knots": [round(float(knot), 4) for knot in own],
                "values": [[_short(value) for value in row] for row in factor],
            }
            for (name, own), factor in zip(knots.items(), factors, strict=True)
        },
    }


def _knots(scaled: FloatArray, per_octave: float) -> FloatArray:
    """Evenly spaced over the measured range, on the axis' scale."""
    low, high = float(scaled.min()), float(scaled.max())
    return np.linspace(low, high, max(round((high - low) * per_octave), 1) + 1)


def _weights(rows: FloatArray) -> FloatArray:
    """Points that serving visits most count more: little history before a chunk, contexts of a conversation."""
    usual = (rows[:, 1] <= _USUAL_HISTORY) & (rows[:, 3] >= _USUAL_CONTEXT[0])
    usual &= rows[:, 3] <= _USUAL_CONTEXT[1]
    return np.where(usual, _USUAL_WEIGHT, 1.0)


def alternating_least_squares(
    bases: list[FloatArray], target: FloatArray, weights: FloatArray, rank: int
) -> list[FloatArray]:
    """Sum over ranks of products of one function per axis, fitted to ``target`` (n,) with ``weights`` (n,).

    ``bases[a]`` is (n, knots of axis a); the result holds (knots, rank) per axis. Each axis in turn is a
    linear problem while the others stand still (canonical polyadic decomposition).
    """
    random = np.random.default_rng(_SEED)
    factors: list[FloatArray] = [random.normal(0.0, 0.3, (basis.shape[1], rank)) for basis in bases]
    count = len(target)
    for _ in range(_ITERATIONS):
        for own, basis in enumerate(bases):
            others = np.ones((count, rank))
            for other, factor in enumerate(factors):
                if other != own:
                    others *= bases[other] @ factor
            design = (basis[:, :, None] * others[:, None, :]).reshape(count, -1)
            weighted = design * weights[:, None]
            gram = weighted.T @ design
            gram += np.eye(len(gram)) * (_RIDGE * count / len(gram))
            solved = np.linalg.solve(gram, weighted.T @ target)
            factors[own] = np.asarray(solved, dtype=np.float64).reshape(-1, rank)
        norms = [np.linalg.norm(factor, axis=0) + 1e-12 for factor in factors]
        common = np.prod(norms, axis=0) ** (1 / len(factors))
        factors = [
            np.asarray(factor / norm * common, dtype=np.float64)
            for factor, norm in zip(factors, norms, strict=True)
        ]
    return factors


def nonnegative_least_squares(design: FloatArray, target: FloatArray) -> FloatArray:
    """Coordinate descent on the normal equations, every coefficient at least 0."""
    scale = np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    gram = (design / scale).T @ (design / scale)
    moment = (design / scale).T @ target
    solution = np.zeros(len(moment))
    for _ in range(4000):
        before = solution.copy()
        for j in range(len(solution)):
            solution[j] = max(0.0, solution[j] + moment[j] - float(gram[j] @ solution))
        if float(np.abs(solution - before).max()) < 1e-12:
            break
    return solution / scale


def _short(value: float) -> float:
    """Four significant digits: the fit is no better than that."""
    return float(f"{value:.4g}")
