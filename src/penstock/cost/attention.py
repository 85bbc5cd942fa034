"""Attention times looked up step by step: the grid of a profile compiled to flat Python lists.

The simulation asks once per engine turn, so nothing here allocates an array or walks a dictionary but to
compile a row that is asked for the first time.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from hashlib import blake2b
from typing import Any

import numpy as np

from penstock.cost.tables import AttentionGrid, FloatArray, KernelTables, SkewTable, interpolate
from penstock.units import int64_array

Row = tuple[list[float], list[float], list[float] | None]


class AttentionLookup:
    """One layer's attention in nanoseconds (float), by what a step holds.

    The grid is linear along each axis, the top two points extrapolate above, the first point holds below.
    With unequal decode contexts t = t(mean) + alpha * (t(longest) - t(mean)), alpha by the skew table.
    ``outside`` counts lookups beyond each axis: axis name -> [how often, furthest, measured limit].
    """

    __slots__ = (
        "_alpha",
        "_alpha_shape",
        "_chunk_alpha",
        "_chunk_at",
        "_decode_at",
        "_decode_edges",
        "_grid",
        "_intercepts",
        "_limits",
        "_longest_edges",
        "_made_arrays",
        "_prefill_axis",
        "_prefill_edges",
        "_rate_edges",
        "_rows",
        "_segment",
        "_skew",
        "_slopes",
        "_strides",
        "outside",
    )

    def __init__(self, grid: AttentionGrid, skew: SkewTable | None) -> None:
        self._grid = grid
        self._skew = skew
        intercepts, slopes = _segments(grid.decode_contexts, grid.us * 1000.0)
        shape = intercepts.shape
        self._strides = (shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3])
        self._intercepts: list[float] = intercepts.ravel().tolist()
        self._slopes: list[float] = slopes.ravel().tolist()
        top = int(grid.decode_contexts[-1])
        within = np.searchsorted(grid.decode_contexts, np.arange(top), side="right")
        self._segment = within.astype(np.uint8).tobytes()
        self._limits = (
            int(grid.chunks[-1]),
            int(grid.decodes[-1]),
            int(grid.prefill_contexts[-1]),
            top,
        )
        self._prefill_axis: list[float] = grid.prefill_contexts.tolist()
        self._chunk_at = _positions(grid.chunks, self._strides[0])
        self._decode_at = _positions(grid.decodes, self._strides[1])
        self._rows: list[Row] = []
        self._alpha: list[float] | None = None if skew is None else skew.alpha.ravel().tolist()
        self._alpha_shape: tuple[int, ...] = (0,) * 5 if skew is None else skew.alpha.shape
        self._chunk_alpha = [] if skew is None else _nearest(skew.chunks, self._limits[0])
        self._decode_edges: list[float] = [] if skew is None else skew.decode_edges.tolist()
        self._rate_edges: list[float] = [] if skew is None else skew.rate_edges.tolist()
        self._longest_edges: list[float] = [] if skew is None else skew.longest_edges.tolist()
        self._prefill_edges: list[float] = [] if skew is None else skew.prefill_edges.tolist()
        self._made_arrays: dict[str, dict[str, Any]] = {}
        self.outside: dict[str, list[int]] = {}

    def __copy__(self) -> AttentionLookup:
        """The same tables, which may go on growing for both, and counters of its own."""
        twin = object.__new__(AttentionLookup)
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.outside = {}
        return twin

    def decode_ns(self, decodes: int, total: int, shortest: int, longest: int) -> float:
        """A step of decodes alone: their number (> 0), summed, shortest and longest context."""
        if decodes >= len(self._rows):
            self._compile_rows(decodes)
        row = self._rows[decodes]
        intercepts, slopes, alphas = row
        limit = self._limits[3]
        mean = total / decodes
        k = self._segment[int(mean)] if mean < limit else -1
        time = intercepts[k] + slopes[k] * mean
        if longest > limit or decodes > self._limits[1]:
            self._count_outside(0, 0, decodes, longest)
        if alphas is not None and longest > shortest:
            rate = bisect_left(self._rate_edges, (mean - shortest) / (longest - shortest))
            edges = self._longest_edges
            alpha = alphas[rate * (len(edges) + 1) + bisect_left(edges, longest)]
            k = self._segment[longest] if longest < limit else -1
            time += alpha * (intercepts[k] + slopes[k] * longest - time)
        return time

    def decode_turns_ns(
        self, decodes: int, total: int, shortest: int, longest: int, turns: int
    ) -> FloatArray | None:
        """``decode_ns`` of the same decodes in ``turns`` consecutive steps, bit for bit, shape (turns,).

        Each context grows by one token a step. None where a lookup leaves the measured range.
        """
        limit = self._limits[3]
        if longest + turns > limit or decodes > self._limits[1]:
            return None
        if decodes >= len(self._rows):
            self._compile_rows(decodes)
        intercepts, slopes, alphas = self._rows[decodes]
        lines = np.array([intercepts, slopes])
        segment = np.frombuffer(self._segment, dtype=np.uint8)
        step = np.arange(turns)
        means = (total + decodes * step) / decodes
        low, slope = lines[:, segment[means.astype(np.int64)]]
        time = low + slope * means
        if alphas is not None and longest > shortest:
            longest_now = longest + step
            rates = (means - (shortest + step)) / (longest - shortest)
            bins = np.searchsorted(self._rate_edges, rates) * (len(self._longest_edges) + 1)
            bins += np.searchsorted(self._longest_edges, longest_now)
            low, slope = lines[:, segment[longest_now]]
            time += np.array(alphas)[bins] * (low + slope * longest_now - time)
        return time

    def mixed_ns(
        self, chunk: int, history: int, decodes: int, total: int, shortest: int, longest: int
    ) -> float:
        """A step with prefill chunks: their new tokens (> 0), summed history, and the decodes' contexts."""
        limits = self._limits
        if chunk > limits[0] or history > limits[2] or decodes > limits[1] or longest > limits[3]:
            self._count_outside(chunk, history, decodes, longest)
        position, chunk_weight = (
            self._chunk_at[chunk]
            if chunk < len(self._chunk_at)
            else _position(self._grid.chunks, self._strides[0], chunk)
        )
        offset, decode_weight = (
            self._decode_at[decodes]
            if decodes < len(self._decode_at)
            else _position(self._grid.decodes, self._strides[1], decodes)
        )
        position += offset
        history_weight = 0.0
        if history:
            axis = self._prefill_axis
            low = min(bisect_right(axis, history), len(axis) - 1) - 1
            history_weight = (history - axis[low]) / (axis[low + 1] - axis[low])
            position += low * self._strides[2]
        weights = (chunk_weight, decode_weight, history_weight)
        if not decodes:
            return self._at(position, weights, 0, 0.0)
        limit = limits[3]
        mean = total / decodes
        time = self._at(position, weights, self._segment[int(mean)] if mean < limit else -1, mean)
        alphas = self._alpha
        if alphas is not None and longest > shortest:
            k = self._segment[longest] if longest < limit else -1
            alpha = alphas[self._alpha_index(chunk, history, decodes, mean, shortest, longest)]
            time += alpha * (self._at(position, weights, k, float(longest)) - time)
        return time

    @property
    def is_plain(self) -> bool:
        """Whether every lookup has two points along each axis to go by."""
        return len(self._prefill_axis) > 1

    def as_arrays(self) -> dict[str, Any]:
        """All that a lookup needs as flat arrays, for an engine in machine code, which does the same with them."""
        return self._arrays_of_grid() | self._arrays_of_rows()

    def _arrays_of_grid(self) -> dict[str, Any]:
        """What never grows, made once for all copies."""
        made = self._made_arrays
        if "grid" not in made:
            made["grid"] = {
                "limits": int64_array(self._limits),
                "strides": int64_array(self._strides),
                "intercepts": np.array(self._intercepts),
                "slopes": np.array(self._slopes),
                "segment": self._segment,
                "chunk_offsets": int64_array([offset for offset, _ in self._chunk_at]),
                "chunk_weights": np.array([weight for _, weight in self._chunk_at]),
                "decode_offsets": int64_array([offset for offset, _ in self._decode_at]),
                "decode_weights": np.array([weight for _, weight in self._decode_at]),
                "chunk_axis": self._grid.chunks.astype(np.float64),
                "decode_axis": self._grid.decodes.astype(np.float64),
                "prefill_axis": np.array(self._prefill_axis),
                "has_skew": self._alpha is not None,
                "alpha": np.array(self._alpha or [], dtype=np.float64),
                "alpha_shape": int64_array(self._alpha_shape),
                "chunk_alpha": int64_array(self._chunk_alpha),
                "decode_edges": np.array(self._decode_edges, dtype=np.float64),
                "rate_edges": np.array(self._rate_edges, dtype=np.float64),
                "longest_edges": np.array(self._longest_edges, dtype=np.float64),
                "prefill_edges": np.array(self._prefill_edges, dtype=np.float64),
            }
        return made["grid"]

    def _arrays_of_rows(self) -> dict[str, Any]:
        """The rows by number of decodes, made anew for all copies when there are more of them."""
        rows = self._rows
        made = self._made_arrays
        if made.get("rows", {}).get("rows") != len(rows):
            tables = {id(alphas): alphas for _, _, alphas in rows if alphas is not None}
            places = {key: place for place, key in enumerate(tables)}
            made["rows"] = {
                "rows": len(rows),
                "row_width": len(rows[0][0]) if rows else 0,
                "row_intercepts": np.array([intercepts for intercepts, _, _ in rows], dtype=np.float64),
                "row_slopes": np.array([slopes for _, slopes, _ in rows], dtype=np.float64),
                "row_alphas": int64_array([places.get(id(alphas), -1) for _, _, alphas in rows]),
                "alpha_tables": np.array(list(tables.values()), dtype=np.float64),
                "alpha_table_size": len(next(iter(tables.values()), ())),
            }
        return made["rows"]

    def reach(self, decodes: int) -> None:
        """Let the rows hold so many decodes."""
        if decodes >= len(self._rows):
            self._compile_rows(decodes)

    def count_beyond(self, found: Sequence[tuple[int, int]]) -> None:
        """Lookups beyond each limit that were done elsewhere: how many, and the furthest."""
        for name, (count, furthest), limit in zip(_AXES, found, self._limits, strict=True):
            count_beyond(self.outside, name, count, furthest, limit)

    def _at(self, position: int, weights: tuple[float, float, float], segment: int, context: float) -> float:
        """Interpolates between the (up to) eight lines around a place, at one decode context."""
        stride = self._strides[2]
        i = position + (segment if segment >= 0 else stride - 1)
        chunk_weight, decode_weight, history_weight = weights
        time = self._plane(i, chunk_weight, decode_weight, context)
        if history_weight:
            time += history_weight * (self._plane(i + stride, chunk_weight, decode_weight, context) - time)
        return time

    def _plane(self, i: int, chunk_weight: float, decode_weight: float, context: float) -> float:
        """Interpolates between chunks and numbers of decodes at one prefill context."""
        intercepts, slopes = self._intercepts, self._slopes
        by_chunk, by_decode, _ = self._strides
        low = intercepts[i] + slopes[i] * context
        if chunk_weight:
            j = i + by_chunk
            low += chunk_weight * (intercepts[j] + slopes[j] * context - low)
        if decode_weight:
            i += by_decode
            high = intercepts[i] + slopes[i] * context
            if chunk_weight:
                j = i + by_chunk
                high += chunk_weight * (intercepts[j] + slopes[j] * context - high)
            low += decode_weight * (high - low)
        return low

    def _alpha_index(
        self, chunk: int, history: int, decodes: int, mean: float, shortest: int, longest: int
    ) -> int:
        nearest = self._chunk_alpha
        shape = self._alpha_shape
        i = nearest[chunk] if chunk < len(nearest) else shape[0] - 1
        i = i * shape[1] + bisect_left(self._decode_edges, decodes)
        i = i * shape[2] + bisect_left(self._rate_edges, (mean - shortest) / (longest - shortest))
        i = i * shape[3] + bisect_left(self._longest_edges, longest)
        return i * shape[4] + bisect_left(self._prefill_edges, history)

    def _compile_rows(self, decodes: int) -> None:
        """The line segments over context and their alphas for every number of decodes up to ``decodes`` and a
        good deal more: together they take little longer than one."""
        grid = self._grid
        counts = np.arange(len(self._rows), max(2 * decodes, 64))
        positive = grid.decodes > 0
        us = interpolate(counts.astype(float), grid.decodes[positive], grid.us[0, positive, 0, :])
        intercepts, slopes = _segments(grid.decode_contexts, us * 1000.0)
        alphas: list[list[float] | None] = [None] * len(counts)
        if self._skew is not None:
            bins = [bisect_left(self._decode_edges, count) for count in counts.tolist()]
            by_bin = [table[:, :, 0].ravel().tolist() for table in self._skew.alpha[0]]
            alphas = [by_bin[place] for place in bins]
        self._rows += zip(intercepts.tolist(), slopes.tolist(), alphas, strict=True)

    def _count_outside(self, chunk: int, history: int, decodes: int, longest: int) -> None:
        for name, value, limit in zip(_AXES, (chunk, decodes, history, longest), self._limits, strict=True):
            count_beyond(self.outside, name, value > limit, value, limit)


def count_beyond(outside: dict[str, list[int]], name: str, count: int, furthest: int, limit: int) -> None:
    """Add so many lookups beyond ``limit`` to what is known of an axis."""
    if count:
        entry = outside.setdefault(name, [0, 0, limit])
        entry[0] += count
        entry[1] = max(entry[1], furthest)


def attention_lookup(tables: KernelTables) -> AttentionLookup:
    """The attention of ``tables``, read as they say. Equal grids are compiled once in a process: deployments of one
    search differ in much else."""
    kind = tables.lookup or AttentionLookup
    key = (kind, _contents(tables.attention), None if tables.skew is None else _contents(tables.skew))
    found = _COMPILED.pop(key, None) or kind(tables.attention, tables.skew)
    _COMPILED[key] = found
    while len(_COMPILED) > _KEPT_LOOKUPS:
        del _COMPILED[next(iter(_COMPILED))]
    return copy(found)


_KEPT_LOOKUPS = 32
_COMPILED: dict[tuple[object, ...], AttentionLookup] = {}
"""The one used last goes last."""


def _contents(table: AttentionGrid | SkewTable) -> tuple[object, ...]:
    """What tells one table from another: arrays by a digest."""
    values = [getattr(table, one.name) for one in fields(table)]
    return tuple(
        (value.shape, value.dtype.str, blake2b(np.ascontiguousarray(value).tobytes()).digest())
        if isinstance(value, np.ndarray)
        else value
        for value in values
    )


_AXES = ("new prefill tokens", "decodes", "prefill context", "decode context")


def _segments(axis: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lines over the last axis: (intercepts, slopes), one more segment than gaps: the first is constant,
    the last goes on above the axis."""
    first = values[..., :1]
    if len(axis) == 1:
        return np.repeat(first, 2, axis=-1), np.zeros((*values.shape[:-1], 2))
    slopes = np.diff(values, axis=-1) / np.diff(axis)
    intercepts = values[..., :-1] - slopes * axis[:-1]
    return np.concatenate([first, intercepts], axis=-1), np.concatenate([first * 0.0, slopes], axis=-1)


def _position(axis: FloatArray, stride: int, size: int) -> tuple[int, float]:
    if len(axis) == 1:
        return 0, 0.0
    low = min(int(np.searchsorted(axis, size, side="right")), len(axis) - 1) - 1
    return low * stride, float((size - axis[low]) / (axis[low + 1] - axis[low]))


def _positions(axis: FloatArray, stride: int) -> list[tuple[int, float]]:
    """For every size up to the axis' top: (offset of the point at or below, weight of the next)."""
    if len(axis) == 1:
        return [(0, 0.0)]
    sizes = np.arange(int(axis[-1]) + 1)
    low = np.minimum(np.searchsorted(axis, sizes, side="right"), len(axis) - 1) - 1
    weight = (sizes - axis[low]) / (axis[low + 1] - axis[low])
    return list(zip((low * stride).tolist(), weight.tolist(), strict=True))


def _nearest(points: FloatArray, top: int) -> list[int]:
    """Index of the nearest point for every size up to ``top``."""
    edges = (points[1:] + points[:-1]) / 2
    return np.searchsorted(edges, np.arange(top + 1), side="right").tolist()
