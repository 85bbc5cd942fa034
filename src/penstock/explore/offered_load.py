"""One workload at any rate: its own arrivals scaled, or new ones drawn, the requests as they are."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np

from penstock.errors import Problem, UserError, nearest
from penstock.recording.records import Int64Array
from penstock.units import NS_PER_S
from penstock.workload.workload import Workload

ARRIVALS = ("poisson", "gamma", "constant", "scaled")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How requests come. ``scaled`` keeps the workload's own rhythm; the others are drawn at the rate.
    ``burstiness`` is the shape of ``gamma`` (1 is Poisson, less is burstier)."""

    kind: str = "poisson"
    burstiness: float = 1.0


class OfferedLoad:
    """A workload whose requests arrive at a chosen mean rate.

    One realisation per seed: the same order and the same relative times at every rate, so that a higher rate is
    the same story told faster. With ``scaled`` seed 0 is the workload's own order and the others begin
    elsewhere in it, going round; otherwise seed 0 keeps the order and the others shuffle it. A session counts as
    one request: its later calls follow from the run.
    """

    def __init__(self, workload: Workload, arrivals: Arrivals) -> None:
        self.workload = workload
        self.arrivals = arrivals
        self._rows = _first_rows(workload)
        self._order = self._rows[np.argsort(workload.arrival_ns[self._rows], kind="stable")]

    def __len__(self) -> int:
        """Requests that arrive by themselves."""
        return len(self._rows)

    def at(self, rate_per_s: float, seed: int) -> Workload:
        """The workload at a mean rate; infinity means all at once."""
        times = np.zeros(len(self))
        if math.isfinite(rate_per_s):
            times = self._unit_times(seed) / rate_per_s
        return self._arriving(np.rint(times * NS_PER_S).astype(np.int64), seed)

    def as_given(self) -> Workload:
        """The workload with its own arrivals."""
        return self.workload

    def _arriving(self, times_ns: Int64Array, seed: int) -> Workload:
        arrival_ns = np.zeros(len(self.workload), dtype=np.int64)
        arrival_ns[self._ordered(seed)] = times_ns
        if self.workload.has_sessions:
            # Later calls stand behind their session's first and carry its time.
            first = np.zeros(len(self.workload), dtype=np.int64)
            first[self._rows] = self._rows
            arrival_ns = arrival_ns[np.maximum.accumulate(first)]
        return self.workload.with_arrivals(array("q", arrival_ns.tobytes()))

    def _ordered(self, seed: int) -> Int64Array:
        """Rows in the order in which they arrive."""
        if not seed:
            return self._order
        if self.arrivals.kind == "scaled":
            return np.roll(self._order, -self._start(seed))
        return np.random.Generator(np.random.PCG64(seed)).permutation(self._order)

    def _start(self, seed: int) -> int:
        """Where a rotated workload begins: spread by the golden ratio, whatever the number of seeds."""
        return int(len(self) * ((seed * 0.6180339887498949) % 1.0))

    def _unit_times(self, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Seconds at a rate of one a second, rising, shape (requests,)."""
        count = len(self)
        generator = np.random.Generator(np.random.PCG64((seed, 1)))
        match self.arrivals.kind:
            case "constant":
                return np.arange(count, dtype=np.float64)
            case "gamma":
                shape = self.arrivals.burstiness
                return np.cumsum(generator.gamma(shape, 1 / shape, count))
            case "scaled":
                return self._own_times(seed)
            case _:
                return np.cumsum(generator.exponential(1.0, count))

    def _own_times(self, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        times = self.workload.arrival_ns[self._order].astype(np.float64)
        span = times[-1] - times[0]
        # The gap behind the last request, which going round needs, is the mean one.
        gaps = np.append(np.diff(times), span / max(len(times) - 1, 1))
        gaps = np.roll(gaps, -self._start(seed)) if seed else gaps
        return np.concatenate([[0.0], np.cumsum(gaps)[:-1]]) * (len(times) / gaps.sum())


def check_arrivals(arrivals: Arrivals, workload: Workload, where: str = "--arrivals") -> None:
    """Whether the workload can be made to arrive so.

    Raises:
        UserError: unknown kind, burstiness out of range, or nothing to scale.
    """
    if arrivals.kind not in ARRIVALS:
        hint = nearest(arrivals.kind, ARRIVALS)
        raise UserError([Problem(where, f"unknown kind '{arrivals.kind}'{hint} ({', '.join(ARRIVALS)})")])
    if not 1e-3 <= arrivals.burstiness <= 1e6:
        raise UserError([Problem("--burstiness", f"must be from 1e-3 to 1e6, not {arrivals.burstiness:g}")])
    times = workload.arrival_ns
    if arrivals.kind == "scaled" and int(times.max()) == int(times.min()):
        message = "'scaled' needs arrivals to scale, but all requests arrive at the same time: use 'poisson'"
        raise UserError([Problem(where, message)])


def _first_rows(workload: Workload) -> Int64Array:
    rows = [request.index for request in workload.requests()] if workload.has_sessions else None
    return (
        np.arange(len(workload), dtype=np.int64) if rows is None else np.array(sorted(rows), dtype=np.int64)
    )
