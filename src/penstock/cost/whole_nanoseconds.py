"""Kernel times as LLMServingSim reads them from a profile: each in whole nanoseconds.

Its trace generator (``serving/core/trace_generator.py``) rounds every measured point to a nanosecond and cuts what lies
between two points off. Attention differs in three more ways: decodes count with the mean of their contexts in whole
tokens, in the skew's rate too; skew is added only where the longest context takes longer than the mean; and beside a
prefill chunk only if a chunk of just that many tokens was profiled, else with the profile's default alpha. The rules
were found by comparing results (``tests/serving/test_upstream_csv.py``, ``test_upstream_rules.py``).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from penstock.cost.attention import AttentionLookup
from penstock.cost.tables import AttentionGrid, Curve, FloatArray, KernelTables, SkewTable

_SLACK = 1e-6
"""Of a nanosecond: what floating point may lack of a whole one."""


def in_whole_nanoseconds(tables: KernelTables) -> KernelTables:
    """The same tables, rounded and looked up as LLMServingSim does."""
    grid = tables.attention
    return replace(
        tables,
        dense={name: WholeCurve.of(curve) for name, curve in tables.dense.items()},
        per_sequence={name: WholeCurve.of(curve) for name, curve in tables.per_sequence.items()},
        attention=replace(grid, us=np.rint(grid.us * 1000.0) / 1000.0),
        lookup=WholeLookup,
        basis=(
            *tables.basis,
            "kernel times between measured points: in whole ns, as LLMServingSim reads them",
        ),
    )


class WholeCurve(Curve):
    """Points in whole nanoseconds; what lies between is cut off to whole ones."""

    @classmethod
    def of(cls, curve: Curve) -> WholeCurve:
        """The curve with its points rounded."""
        return cls(curve.sizes, np.rint(curve.us * 1000.0) / 1000.0)

    def at(self, sizes: npt.ArrayLike) -> FloatArray:
        """Microseconds at ``sizes`` (any shape, the same shape back)."""
        return np.floor(Curve.at(self, sizes) * 1000.0 + _SLACK) / 1000.0


class WholeLookup(AttentionLookup):
    """One layer's attention in whole nanoseconds."""

    __slots__ = ("_exact_chunks", "_plain")

    def __init__(self, grid: AttentionGrid, skew: SkewTable | None) -> None:
        super().__init__(grid, skew)
        self._plain = AttentionLookup(grid, None)
        self.outside = self._plain.outside
        self._exact_chunks: frozenset[float] = frozenset(() if skew is None else skew.chunks.tolist())

    def __copy__(self) -> WholeLookup:
        """The same tables, and counters of its own."""
        return WholeLookup(self._grid, self._skew)

    def decode_ns(self, decodes: int, total: int, shortest: int, longest: int) -> float:
        """A step of decodes alone."""
        mean = total // decodes
        time = self._decodes_of(decodes, mean)
        if self._skew is None or longest <= shortest:
            return time
        rate = bisect_left(self._rate_edges, (mean - shortest) / (longest - shortest))
        edges = self._longest_edges
        alphas = self._alphas_of(decodes)
        alpha = alphas[rate * (len(edges) + 1) + bisect_left(edges, longest)]
        return _skewed(time, self._decodes_of(decodes, longest), alpha)

    def decode_turns_ns(
        self, decodes: int, total: int, shortest: int, longest: int, turns: int
    ) -> FloatArray | None:
        """None: every step is looked up."""
        return None

    def mixed_ns(
        self, chunk: int, history: int, decodes: int, total: int, shortest: int, longest: int
    ) -> float:
        """A step with prefill chunks."""
        mean = total // decodes if decodes else 0
        time = self._mixed_of(chunk, history, decodes, mean)
        table = self._skew
        if not decodes or table is None or longest <= shortest:
            return time
        alpha = table.default
        if chunk in self._exact_chunks:
            place = self._alpha_index(chunk, history, decodes, mean, shortest, longest)
            alpha = float(table.alpha.flat[place])
        return _skewed(time, self._mixed_of(chunk, history, decodes, longest), alpha)

    def _decodes_of(self, decodes: int, context: int) -> float:
        return _whole(self._plain.decode_ns(decodes, decodes * context, context, context))

    def _mixed_of(self, chunk: int, history: int, decodes: int, context: int) -> float:
        return _whole(self._plain.mixed_ns(chunk, history, decodes, decodes * context, context, context))

    def _alphas_of(self, decodes: int) -> list[float]:
        if decodes >= len(self._rows):
            self._compile_rows(decodes)
        return self._rows[decodes][2] or []


def _whole(time: float) -> float:
    return float(int(time + _SLACK))


def _skewed(mean: float, longest: float, alpha: float) -> float:
    return float(round(mean + alpha * (longest - mean))) if longest > mean else mean
