"""Simulated time that passes with the machine's clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.units import NS_PER_S


class SimulatedClock:
    """Nanoseconds of simulated time since it was made: those of ``machine_ns``, a monotonic clock, times ``scale``."""

    def __init__(self, scale: float = 1.0, machine_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.scale = scale
        self._machine_ns = machine_ns
        self._start_ns = machine_ns()

    def now_ns(self) -> int:
        """Simulated time now."""
        return self.at_ns(self._machine_ns())

    def at_ns(self, machine_ns: int) -> int:
        """Simulated time when the machine's clock said ``machine_ns``."""
        passed = machine_ns - self._start_ns
        return passed if self.scale == 1.0 else int(passed * self.scale)

    def seconds_until(self, at_ns: int) -> float:
        """Seconds of the machine until it is ``at_ns``; not above 0 where it has passed."""
        return (at_ns - self.now_ns()) / self.scale / NS_PER_S
