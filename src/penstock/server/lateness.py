"""How late tokens leave the server: behind the moment at which they left the simulated engine."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from penstock.units import NS_PER_S

BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
RECENT = 10_000
_FOLD_AT = 8192


class Lateness:
    """Machine time, in seconds, between a token's due time and its handing over to the socket, over all tokens and
    over the last ``RECENT``. ``scale`` turns simulated into machine time."""

    def __init__(self, scale: float) -> None:
        self._per_s = scale * NS_PER_S
        self._fresh: array[int] = array("q")
        self._counts = np.zeros(len(BUCKETS_S) + 1, dtype=np.int64)
        self._recent = np.zeros(0)
        self.total = 0
        self.sum_s = 0.0

    def note(self, tokens: Sequence[tuple[int, int]], now_ns: int) -> None:
        """Tokens, (sequence, due_ns) each, have been handed over at ``now_ns``."""
        fresh = self._fresh
        for _, due_ns in tokens:
            fresh.append(now_ns - due_ns)
        if len(fresh) >= _FOLD_AT:
            self._fold()

    def quantile_s(self, q: float) -> float:
        """Of the last tokens; 0 where there are none."""
        self._fold()
        return float(np.quantile(self._recent, q)) if len(self._recent) else 0.0

    def max_s(self) -> float:
        """Of the last tokens; 0 where there are none."""
        self._fold()
        return float(self._recent.max()) if len(self._recent) else 0.0

    def cumulative(self) -> list[int]:
        """Tokens up to each of ``BUCKETS_S``, and all of them."""
        self._fold()
        return np.cumsum(self._counts).tolist()

    def _fold(self) -> None:
        if not self._fresh:
            return
        late_s = np.frombuffer(self._fresh, dtype=np.int64) / self._per_s
        self._counts += np.bincount(
            np.searchsorted(BUCKETS_S, late_s, side="left"), minlength=len(BUCKETS_S) + 1
        )
        self.total += len(late_s)
        self.sum_s += float(late_s.sum())
        self._recent = np.concatenate([self._recent, late_s])[-RECENT:]
        self._fresh = array("q")
