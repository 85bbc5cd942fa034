"""A progress bar on stderr, where that is a terminal."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from penstock.units import seconds

_REDRAW_S = 0.1
_WIDTH = 30


class RunProgress(Protocol):
    """How far a run is."""

    @property
    def simulated_ns(self) -> int:
        """Simulated time."""
        ...

    @property
    def finished(self) -> int:
        """Requests finished or rejected."""
        ...

    @property
    def total(self) -> int:
        """Requests of the workload."""
        ...


class ProgressBar:
    """One line, redrawn at most ten times a second, gone at the end."""

    def __init__(self) -> None:
        self._drawn_at = 0.0

    def update(self, progress: RunProgress) -> None:
        """Draw how far the run is."""
        now = time.monotonic()
        if now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        share = progress.finished / max(progress.total, 1)
        bar = ("#" * round(share * _WIDTH)).ljust(_WIDTH, ".")
        requests = f"{progress.finished}/{progress.total} requests"
        simulated = f"{seconds(progress.simulated_ns):.1f} s simulated"
        print(f"\r[{bar}] {requests}, {simulated}\033[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Make room for something else."""
        if self._drawn_at:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._drawn_at = 0.0
