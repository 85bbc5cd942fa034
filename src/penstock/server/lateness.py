"""How late tokens leave the server: behind the moment at which they left the simulated engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.server.histogram import Histogram
from penstock.units import NS_PER_S

BUCKETS_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.004,
    0.005,
    0.006,
    0.0075,
    0.01,
    0.015,
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
RECENT = 10_000
_FOLD_AT = 4096


class Lateness:
    """Machine time, in seconds, between a token's due time and its handing over to the socket: over all tokens in
    ``histogram``, and over the last ``RECENT``. ``scale`` turns machine into simulated time."""

    def __init__(self, scale: float) -> None:
        self.histogram = Histogram(BUCKETS_S, scale * NS_PER_S)
        self._recent = np.zeros(0)
        self._unfolded = 0

    def note(self, due_ns: Sequence[int], now_ns: int) -> None:
        """Tokens that were due then have been handed over at ``now_ns``."""
        add = self.histogram.add
        for one in due_ns:
            add(now_ns - one)
        self._unfolded += len(due_ns)
        if self._unfolded >= _FOLD_AT:
            self._fold()

    def quantiles_s(self, *of: float) -> list[float]:
        """Of the last tokens; 0 where there are none."""
        self._fold()
        if not len(self._recent):
            return [0.0] * len(of)
        return np.quantile(self._recent, of).tolist()

    def _fold(self) -> None:
        self._unfolded = 0
        self._recent = np.concatenate([self._recent, self.histogram.fold()])[-RECENT:]
