"""Fitting by simulation: the benchmark is served again and again until the client sees what it saw.

Non-linear least squares (SciPy's trust-region reflective method) over what each request shows of the server: its
TTFT, its TPOT, and the median of its gaps, as logarithms of simulated over measured. Priors are residuals too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import optimize, stats

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray
from penstock.calibration.parameters import Estimate, Prior, estimates, learnt, settled

_SPREADS = (0.20, 0.10, 0.10)
"""The weights of a request's log TTFT, TPOT and median gap against each other and against the priors. In a good fit
they are off by half as much; but requests that run together share steps, so each tells less than it seems to."""
_COARSE = 0.2
_FINE = 0.1
"""Steps of the finite differences, of a parameter's scale. A simulated schedule answers in jumps, a request joining
one step or the next: with small differences the jumps would pass for information."""
_REFINEMENTS = 6
_AVERAGED = 3
_FARTHEST = 0.3
_CLUSTERS = 12
_FLOOR_S = 1e-4

Serve = Callable[[dict[str, float]], Sequence[Benchmark]]


@dataclass(frozen=True, slots=True)
class Found:
    """The estimates and how many simulations they took."""

    estimates: tuple[Estimate, ...]
    simulations: int

    def values(self) -> dict[str, float]:
        """By name."""
        return {one.name: one.value for one in self.estimates}


def search(
    serve: Serve,
    measured: Sequence[Benchmark],
    chosen: Sequence[BoolArray],
    priors: Sequence[Prior],
    start: Mapping[str, float] | None = None,
) -> Found:
    """Fit the free parameters so that ``serve(values)`` sees what was measured on the chosen requests.

    ``start`` are values near the solution, where some are known; else it begins at the priors. What turns out to
    be unknown from the files goes back to its prior, and the others are fitted once more.
    """
    first = _Search(serve, measured, chosen, priors)
    values, _, known = first.run(
        None if start is None else np.array([start[prior.name] for prior in priors], dtype=np.float64)
    )
    used = first.simulations
    settled_priors = [
        prior if not prior.free or wanted else settled(prior)
        for prior, wanted in zip(priors, known, strict=True)
    ]
    second = first
    if settled_priors != list(priors):
        second = _Search(serve, measured, chosen, settled_priors)
        values, _, _ = second.run(values)
        used += second.simulations
    deviations = second.deviations
    quantile = float(stats.t.ppf(0.975, _CLUSTERS - 1))
    return Found(tuple(estimates(priors, values, deviations, known, quantile)), used)


class _Search:
    def __init__(
        self,
        serve: Serve,
        measured: Sequence[Benchmark],
        chosen: Sequence[BoolArray],
        priors: Sequence[Prior],
    ) -> None:
        self._serve = serve
        self._priors = priors
        self._free = [place for place, prior in enumerate(priors) if prior.free]
        self._scale = np.array([priors[place].scale for place in self._free])
        self._gaps = [one.gaps_s is not None for one in measured]
        self._chosen = chosen
        self._measured = self._shown_by(measured)
        self._known = [prior for prior in (priors[place] for place in self._free) if np.isfinite(prior.sigma)]
        self._last: tuple[FloatArray, FloatArray] | None = None
        self.deviations = np.zeros(len(priors))
        self.simulations = 0

    def run(self, start: FloatArray | None) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Values, standard deviations, and which parameters the files know, by parameter."""
        values = np.array([prior.value for prior in self._priors])
        point = np.maximum((values if start is None else start)[self._free] / self._scale, 0.0)
        if start is None:
            point = optimize.least_squares(
                self._residuals,
                np.maximum(point, 1e-3),
                jac=partial(self._jacobian, _COARSE),  # pyright: ignore[reportArgumentType]
                bounds=(0.0, np.inf),
                loss="soft_l1",
                xtol=1e-2,
                ftol=1e-3,
                max_nfev=8,
            ).x
        point = self._refined(point)
        robust, plain = self._spreads(point)
        values[self._free] = point * self._scale
        self.deviations[self._free] = robust * self._scale
        after = np.zeros(len(values))
        after[self._free] = plain * self._scale
        return values, self.deviations, learnt(self._priors, after)

    def _residuals(self, point: FloatArray) -> FloatArray:
        if self._last is not None and np.array_equal(self._last[0], point):
            return self._last[1]
        values = self._values(point)
        parts = [
            (np.log(simulated / measured) / np.array(_SPREADS[: len(measured)])[:, None]).ravel(order="F")
            for simulated, measured in zip(self._seen(point), self._measured, strict=True)
        ]
        known = np.array([(values[prior.name] - prior.value) / prior.sigma for prior in self._known])
        self._last = (point.copy(), np.concatenate([*parts, known]))
        return self._last[1]

    def _values(self, point: FloatArray) -> dict[str, float]:
        values = {prior.name: prior.value for prior in self._priors}
        for place, own in zip(self._free, point * self._scale, strict=True):
            values[self._priors[place].name] = float(own)
        return values

    def _seen(self, point: FloatArray) -> list[FloatArray]:
        self.simulations += 1
        return self._shown_by(self._serve(self._values(point)))

    def _shown_by(self, benchmarks: Sequence[Benchmark]) -> list[FloatArray]:
        """What is compared; where the measured file has no single gaps, those of the simulated are not looked at."""
        return [
            _shown(one, mask, gaps=gaps)
            for one, mask, gaps in zip(benchmarks, self._chosen, self._gaps, strict=True)
        ]

    def _refined(self, point: FloatArray) -> FloatArray:
        """Gauss-Newton steps, taken whether or not the sum of squares falls, and the mean of the last.

        Where jumps make the sum of squares rough, a search that accepts only improvements stays at the first small
        hollow; the mean of steps around the solution does not.
        """
        visited: list[FloatArray] = []
        for _ in range(_REFINEMENTS):
            rows = self._residuals(point)
            jacobian = self._jacobian(_FINE, point)
            weight = np.ones(len(rows))
            data = len(rows) - len(self._known)
            weight[:data] = (1 + rows[:data] ** 2) ** -0.25  # the square root of the soft L1 loss's weight
            low = np.maximum(-point, -_FARTHEST)
            move = optimize.lsq_linear(
                jacobian * weight[:, None],
                -rows * weight,
                bounds=(low - 1e-12, np.full(len(point), _FARTHEST)),
            ).x
            point = np.maximum(point + move, 0.0)
            visited.append(point)
        return np.mean(visited[-_AVERAGED:], axis=0)

    def _jacobian(self, step: float, point: FloatArray) -> FloatArray:
        """Central differences, one-sided at the bound."""
        columns: list[FloatArray] = []
        for place in range(len(point)):
            above, below = point.copy(), point.copy()
            above[place] += step
            below[place] = max(0.0, point[place] - step)
            change = self._residuals(above) - self._residuals(below)
            columns.append(change / (above[place] - below[place]))
        return np.stack(columns, axis=1)

    def _spreads(self, point: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Standard deviations twice: robust to requests that share steps (the sandwich estimate over clusters of
        consecutive requests), and plain, from the curvature alone. The priors weigh in both."""
        rows = self._residuals(point)
        jacobian = self._jacobian(_COARSE, point)
        data = len(rows) - len(self._known)
        weight = 1 / np.sqrt(1 + rows[:data] ** 2)  # of the soft L1 loss
        own, off = jacobian[:data] * weight[:, None], rows[:data] * weight
        prior = jacobian[data:].T @ jacobian[data:]
        bread = np.linalg.pinv(own.T @ jacobian[:data] + prior)
        meat = prior
        for cluster in np.array_split(np.arange(data), _CLUSTERS):
            score = jacobian[cluster].T @ off[cluster]
            meat = meat + np.outer(score, score) * _CLUSTERS / (_CLUSTERS - 1)
        robust = np.sqrt(np.maximum(np.diag(bread @ meat @ bread), 0.0))
        return robust, np.sqrt(np.maximum(np.diag(bread), 0.0))


def _shown(benchmark: Benchmark, chosen: BoolArray, *, gaps: bool) -> FloatArray:
    """What each chosen request shows, seconds, shape (rows, requests): TTFT, TPOT, and with ``gaps`` its median gap."""
    rows = np.flatnonzero(chosen)
    ttft = benchmark.ttft_s[rows]
    answers = np.maximum(benchmark.output_tokens[rows] - 1, 1)
    tpot = (benchmark.latency_s - benchmark.ttft_s)[rows] / answers
    shown = [ttft, tpot]
    if gaps and benchmark.gaps_s is not None:
        own = [benchmark.gaps_s[row] for row in rows]
        shown.append(np.array([float(np.median(one)) if len(one) else 0.0 for one in own]))
    return np.maximum(np.stack(shown), _FLOOR_S)
