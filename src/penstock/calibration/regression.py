"""Fitting to steps, matched with a server's log or read off the client's tokens: their times are a linear regression.

``iteration elapsed time`` is how long the engine waited for a step's result (vLLM ``v1/engine/core.py:
capture_iteration_details``). With one step in flight, and with async scheduling while the engine is busy, that is
the step's time in the worker; what passes from one step's tokens to the next beyond it is the engine's own. With
pipeline parallelism it is neither, and this module is not used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize, stats

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray
from penstock.calibration.matched_steps import MatchedSteps
from penstock.calibration.parameters import Estimate, Prior, estimates, learnt, settled
from penstock.cost.calibrated import decodes_of
from penstock.cost.step_cost import StageCost, StepShape
from penstock.spec.cluster import StepNoise
from penstock.units import NS_PER_S, Int64Array

_OUTLIER = 4.0
"""Steps further off than so many standard deviations (the first of a shape, a stall) count as if just so far."""
_ROUNDS = 12
_CLUSTERS = 20
_TERMS = (
    "base_ns",
    "prefill_base_ns",
    "prefill_token_ns",
    "prefill_context_ns",
    "decode_ns",
    "decode_context_ns",
)
_KERNEL_TERMS = ("prefill_factor", "decode_factor", "prefill_step_ns")


@dataclass(frozen=True, slots=True)
class StepFit:
    """``estimates`` of the step's terms and the host; ``errors`` are measured over fitted, less one, per step;
    ``noise`` is what is left of a step's time, and how it goes on from step to step."""

    estimates: tuple[Estimate, ...]
    errors: FloatArray
    noise: StepNoise

    def values(self) -> dict[str, float]:
        """By name."""
        return {one.name: one.value for one in self.estimates}


def fit_steps(
    runs: Sequence[tuple[Benchmark, MatchedSteps]],
    chosen: Sequence[BoolArray],
    priors: Sequence[Prior],
    kernels: StageCost | None,
    *,
    asynchronous: bool,
    host_included: bool = False,
) -> StepFit:
    """Fit all terms but ``request_ns`` to the steps whose requests are all chosen.

    ``kernels`` is the cost whose factors are sought; None means that the step's own terms are. ``host_included``
    says that the steps' times run from one step's tokens to the next's, so that the engine's own time is in them:
    beside a fitted step cost it then keeps its prior.
    """
    known = {prior.name: prior for prior in priors}
    kept = [_whole(steps, mask) for (_, steps), mask in zip(runs, chosen, strict=True)]
    prior = known["host_step_ns"]
    host, spread, per_decode = (prior.value, prior.sigma, 0.0) if host_included else _host(runs, kept, prior)
    tables = [_terms(steps, kernels) for _, steps in runs]
    inputs = np.concatenate([table[rows] for table, rows in zip(tables, kept, strict=True)])
    elapsed = np.concatenate(
        [steps.elapsed_s[rows] * NS_PER_S for (_, steps), rows in zip(runs, kept, strict=True)]
    )
    if host_included:
        elapsed = elapsed - host
    decodes = np.concatenate([steps.decodes[rows] for (_, steps), rows in zip(runs, kept, strict=True)])
    # The engine's own time grows with the requests in a step: that part has no term of its own but a decode's.
    target = elapsed + per_decode * decodes
    if asynchronous:
        # The wait begins after the next step is scheduled: the worker takes that much longer.
        target = target + host
    if kernels is None:
        names = _TERMS
        own = [known[name] for name in names]
    else:
        # What every step takes beyond its kernels is the host's, too: launching, messages.
        names = (*_KERNEL_TERMS, "host_step_ns")
        own = [*(known[name] for name in _KERNEL_TERMS), replace(known["host_step_ns"], value=host)]
        inputs = np.column_stack([inputs, np.ones(len(inputs))])
        target = target if asynchronous else target + host
    values, deviations, errors, seen = _settle(inputs, target, own)
    quantile = float(stats.t.ppf(0.975, _CLUSTERS - 1))
    found = estimates([known[name] for name in names], values, deviations, seen, quantile)
    if kernels is None:
        measured = np.array([spread < prior.sigma])
        if host_included:
            # The sum of both is known: the base is as unsure as the host.
            found = [
                _wider(one, 1.96 * prior.sigma) if one.name == "base_ns" and one.identified else one
                for one in found
            ]
        found = [*estimates([prior], np.array([host]), np.array([spread]), measured, quantile), *found]
    way = known["host_to_stage_ns"]
    found += estimates([way], np.array([way.value]), np.zeros(1), np.zeros(1, dtype=bool), 0.0)
    return StepFit(tuple(found), errors, _noise(errors))


def _wider(one: Estimate, by: float) -> Estimate:
    half = math.hypot(one.high - one.value, by)
    return replace(one, low=max(0.0, one.value - half), high=one.value + half)


def _settle(
    inputs: FloatArray, target: FloatArray, priors: Sequence[Prior]
) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
    """Values, standard deviations, relative errors per step, and which terms the steps know; the others go back to
    their priors, and the rest is fitted once more."""
    values, deviations, errors, after = _solve(inputs, target, priors)
    seen = learnt(priors, after)
    if not seen.all():
        fixed = [prior if wanted else settled(prior) for prior, wanted in zip(priors, seen, strict=True)]
        values, deviations, errors, _ = _solve(inputs, target, fixed)
        values = np.array(
            [
                value if wanted else prior.value
                for value, prior, wanted in zip(values, priors, seen, strict=True)
            ]
        )
    return values, deviations, errors, seen


def _whole(steps: MatchedSteps, chosen: BoolArray) -> Int64Array:
    """Places of the steps all of whose tokens are of chosen requests."""
    rows = [
        place for place, own in enumerate(steps.tokens) if own and all(chosen[request] for request, _ in own)
    ]
    return np.array(rows, dtype=np.int64)


def _host(
    runs: Sequence[tuple[Benchmark, MatchedSteps]], kept: Sequence[Int64Array], prior: Prior
) -> tuple[float, float, float]:
    """The engine's own time in a step, its standard deviation, and how much more it is per decode, ns.

    It is what passes from one step's tokens at the client to the next step's beyond the elapsed time, in steps that
    only decode. The middle of it: the client is late now and then.
    """
    beyond: list[FloatArray] = []
    decodes: list[FloatArray] = []
    for (benchmark, steps), rows in zip(runs, kept, strict=True):
        if benchmark.gaps_s is None:
            continue
        cadence = np.diff(steps.ends_s(benchmark), prepend=np.nan)
        busy = np.isfinite(cadence) & (steps.decodes > 0)
        wanted = np.zeros(len(steps), dtype=bool)
        wanted[rows] = True
        use = busy & wanted
        beyond.append((cadence - steps.elapsed_s)[use] * NS_PER_S)
        decodes.append(steps.decodes[use].astype(np.float64))
    if not beyond or sum(map(len, beyond)) < _CLUSTERS:
        return prior.value, prior.sigma, 0.0
    values, counts = np.concatenate(beyond), np.concatenate(decodes)
    inputs = np.column_stack([np.ones(len(values)), counts])
    solution = _absolute(inputs, values)
    host, per_decode = max(float(solution[0]), 0.0), max(float(solution[1]), 0.0)
    middle = [
        float(np.median(values[part] - per_decode * counts[part]))
        for part in np.array_split(np.arange(len(values)), _CLUSTERS)
    ]
    return host, float(np.std(middle, ddof=1)) / np.sqrt(_CLUSTERS), per_decode


def _absolute(inputs: FloatArray, values: FloatArray) -> FloatArray:
    """Least absolute deviations, near enough: a Huber loss much narrower than the spread."""
    width = 0.1 * float(np.median(np.abs(values - np.median(values)))) or 1.0
    start = np.zeros(inputs.shape[1])
    start[0] = np.median(values)

    def off(line: FloatArray) -> FloatArray:
        return (inputs @ line - values) / width

    solution: Any = optimize.least_squares(off, start, loss="soft_l1")
    return solution.x


def _terms(steps: MatchedSteps, kernels: StageCost | None) -> FloatArray:
    """What each term is multiplied with, shape (steps, terms); with kernels in ns."""
    prefill = (steps.prefill_tokens > 0).astype(np.float64)
    if kernels is None:
        tokens = steps.prefill_tokens.astype(np.float64)
        ones = np.ones(len(steps))
        own_context = tokens * (steps.prefill_context + tokens / 2)
        columns = [ones, prefill, tokens, own_context, steps.decodes, steps.decode_context]
        return np.column_stack(columns).astype(np.float64)
    rows = np.stack(
        [
            steps.prefill_tokens,
            steps.prefill_context,
            steps.decodes,
            steps.decode_context,
            steps.min_context,
            steps.max_context,
            steps.sampled,
        ],
        axis=1,
    ).tolist()
    loads = [StepShape(*row) for row in rows]
    whole = np.array([sum(kernels.stage_ns(load)) for load in loads], dtype=np.float64)
    part = np.array(
        [sum(kernels.stage_ns(decodes_of(load))) if load.decodes else 0 for load in loads], dtype=np.float64
    )
    return np.column_stack([whole - part, part, prefill])


def _solve(
    inputs: FloatArray, target: FloatArray, priors: Sequence[Prior]
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Values, robust standard deviations, relative errors per step, and plain standard deviations.

    The least squares of the relative error, with priors as rows and no term below 0. Outliers count as if
    ``_OUTLIER`` standard deviations off, so that a stall neither tilts the line nor is forgotten by the mean.
    """
    known = [place for place, prior in enumerate(priors) if np.isfinite(prior.sigma)]
    values = np.array([prior.value for prior in priors], dtype=np.float64)
    scale = np.maximum(np.abs(inputs).max(axis=0), 1e-12)
    fitted, sigma, shown = target, 0.1, target
    for _ in range(_ROUNDS):
        weight = 1 / (fitted * sigma)
        rows = np.zeros((len(known), len(priors)))
        wanted = np.zeros(len(known))
        for row, place in enumerate(known):
            rows[row, place] = 1 / max(priors[place].sigma, 1e-9)
            wanted[row] = priors[place].value / max(priors[place].sigma, 1e-9)
        matrix = np.vstack([inputs * weight[:, None], rows]) / scale
        solution = optimize.lsq_linear(
            matrix, np.concatenate([shown * weight, wanted]), bounds=(0, np.inf), tol=1e-12
        )
        values = solution.x / scale
        fitted = np.maximum(inputs @ values, 1.0)
        errors = target / fitted - 1
        sigma = max(1.4826 * float(np.median(np.abs(errors - np.median(errors)))), 1e-4)
        limit = _OUTLIER * sigma
        shown = fitted * (1 + np.clip(errors, -limit, limit))
    weighted = inputs / (fitted * sigma)[:, None]
    off = np.clip(target / fitted - 1, -_OUTLIER * sigma, _OUTLIER * sigma) / sigma
    # A term that is not fitted is sure; beside it the others would vanish in the inverse.
    free = [place for place, prior in enumerate(priors) if prior.free]
    weighted = (weighted / scale)[:, free]
    precision = np.diag(
        [
            (1 / priors[place].sigma / scale[place]) ** 2 if np.isfinite(priors[place].sigma) else 0.0
            for place in free
        ]
    )
    bread = np.linalg.pinv(weighted.T @ weighted + precision, hermitian=True)
    meat = precision
    for cluster in np.array_split(np.arange(len(target)), _CLUSTERS):
        score = weighted[cluster].T @ off[cluster]
        meat = meat + np.outer(score, score) * _CLUSTERS / (_CLUSTERS - 1)
    robust, plain = np.zeros(len(priors)), np.zeros(len(priors))
    robust[free] = np.sqrt(np.maximum(np.diag(bread @ meat @ bread), 0.0)) / scale[free]
    plain[free] = np.sqrt(np.maximum(np.diag(bread), 0.0)) / scale[free]
    return values, robust, target / fitted - 1, plain


def _noise(errors: FloatArray) -> StepNoise:
    """The spread of the log of a step's time, and its correlation with the next one's."""
    logs = np.log1p(np.clip(errors, -0.5, 1.0))
    logs = logs - logs.mean()
    sigma = float(logs.std())
    if sigma < 1e-6 or len(logs) < _CLUSTERS:
        return StepNoise(sigma=0.0, correlation=0.0)
    correlation = float(np.mean(logs[1:] * logs[:-1])) / sigma**2
    return StepNoise(sigma=sigma, correlation=min(max(correlation, 0.0), 0.95))
