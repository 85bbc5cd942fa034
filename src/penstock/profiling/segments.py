"""Piecewise-linear fits with jumps: GEMM times climb in steps of whole tiles, so the pieces need not meet."""

from __future__ import annotations

import numpy as np

from penstock.cost.tables import Curve, FloatArray


def fit_segments(curve: Curve, *, max_pieces: int, tolerance: float) -> Curve:
    """The fewest straight pieces (up to ``max_pieces``) whose relative error is under ``tolerance`` at the
    90th percentile, found by dynamic programming over the measured points.

    Returns a curve with the two ends of every piece.
    """
    best: Curve | None = None
    for pieces in range(1, max_pieces + 1):
        if pieces > len(curve.sizes):
            break
        best = _with_pieces(curve, pieces)
        error = np.abs(best.at(curve.sizes) / curve.us - 1)
        if float(np.percentile(error, 90)) <= tolerance:
            break
    assert best is not None
    return best


def _with_pieces(curve: Curve, pieces: int) -> Curve:
    x, y = curve.sizes, curve.us
    count = len(x)
    cost, lines = _piece_costs(x, y)
    total = np.full((pieces + 1, count + 1), np.inf)
    total[0, 0] = 0.0
    start = np.zeros((pieces + 1, count + 1), dtype=np.int64)
    for k in range(1, pieces + 1):
        for stop in range(k, count + 1):
            options = total[k - 1, :stop] + cost[:stop, stop - 1]
            start[k, stop] = int(np.argmin(options))
            total[k, stop] = options[start[k, stop]]
    sizes: list[float] = []
    times: list[float] = []
    stop = count
    for k in range(pieces, 0, -1):
        first = int(start[k, stop])
        intercept, slope = lines[:, first, stop - 1]
        ends = [float(x[first])] if first == stop - 1 else [float(x[first]), float(x[stop - 1])]
        sizes[:0] = ends
        times[:0] = [max(float(intercept + slope * end), 0.0) for end in ends]
        stop = first
    return Curve(np.array(sizes), np.array(times))


def _piece_costs(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Relative squared error of the best line over points i..j, and the lines: (n, n) and (2, n, n)."""
    weight = 1.0 / np.square(y)

    def sums(values: FloatArray) -> FloatArray:
        running = np.concatenate([[0.0], np.cumsum(values)])
        return running[None, 1:] - running[:-1, None]

    w, wx, wy = sums(weight), sums(weight * x), sums(weight * y)
    wxx, wxy, wyy = sums(weight * x * x), sums(weight * x * y), sums(weight * y * y)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = w * wxx - wx * wx
        slope = np.where(spread > 1e-9 * np.abs(w * wxx), (w * wxy - wx * wy) / spread, 0.0)
        slope = np.where(np.isfinite(slope), slope, 0.0)
        intercept = np.where(w > 0, (wy - slope * wx) / w, 0.0)
    error = wyy - intercept * wy - slope * wxy
    upper = np.triu(np.ones_like(error)) > 0
    return np.where(upper, np.maximum(error, 0.0), np.inf), np.stack([intercept, slope])
