"""From benchmarks to a calibration: which way to fit, the fit, and the check on what was held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import optimize, stats

from penstock.calibration.benchmark import Benchmark, BoolArray, FloatArray, check_enough
from penstock.calibration.client_steps import steps_of_client
from penstock.calibration.comparison import Row, compare
from penstock.calibration.formats import read_benchmark
from penstock.calibration.matched_steps import MatchedSteps, match_log
from penstock.calibration.parameters import (
    FITTED,
    KERNELS,
    Estimate,
    Prior,
    estimates,
    fitted_priors,
    kernel_priors,
    learnt,
    to_calibration,
)
from penstock.calibration.regression import fit_steps
from penstock.calibration.replay import Prompts, Replay, check_prompts, with_values
from penstock.calibration.search import search
from penstock.calibration.server_log import read_server_log
from penstock.engine.build import BuiltInstance, build_instances
from penstock.errors import Problem, UserError
from penstock.spec.cluster import ClusterSpec, InstanceSpec, StepNoise
from penstock.spec.hardware import find_hardware
from penstock.spec.load import load_cluster
from penstock.spec.options import SchedulerOptions
from penstock.units import NS_PER_MS, NS_PER_S

STEPS = "steps"
TOKENS = "tokens"
SIMULATION = "simulation"
_TTFT_SPREAD = 0.10
_CLUSTERS = 12

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be calibrated. ``logs`` go with ``benches``, in order. ``cost`` is ``auto`` (kernel times where
    there are any), ``kernels`` or ``fitted``. ``noise`` keeps the spread of the log's steps."""

    cluster: str
    benches: tuple[str, ...]
    logs: tuple[str, ...] = ()
    profile_root: str | None = None
    cost: str = "auto"
    noise: bool = False
    prompts: Prompts | None = None
    """What the prompts share, if it is known otherwise than by a log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A benchmark with the steps of its log (None without), and what its prompts share."""

    benchmark: Benchmark
    steps: MatchedSteps | None
    prompts: Prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A calibration with all that is known of it.

    ``simulated`` are the benchmarks as the fit gives them, ``held_out`` the second half of each compared with what
    a fit of the first half predicts, ``half_simulated`` that prediction. ``steps`` are those of each benchmark that
    the regression saw, ``step_errors`` their measured times over the fitted, less one.
    """

    cluster: ClusterSpec
    instance: InstanceSpec
    cost: str
    cost_basis: tuple[str, ...]
    method: str
    measured: tuple[Measured, ...]
    simulated: tuple[Benchmark, ...]
    half_simulated: tuple[Benchmark, ...]
    estimates: tuple[Estimate, ...]
    noise: StepNoise | None
    steps: tuple[MatchedSteps, ...]
    step_errors: FloatArray | None
    held_out: tuple[tuple[Row, ...], ...]
    simulations: int
    notes: tuple[str, ...]

    def values(self) -> dict[str, float]:
        """By name."""
        return {one.name: one.value for one in self.estimates}


def calibrate(question: Question, tell: Tell = lambda text: None) -> Fit:
    """Fit a calibration.

    Raises:
        UserError: with what is wrong with the cluster, the benchmarks or the logs.
    """
    cluster, measured = _read(question)
    return _Fitter(question, cluster, measured, tell).fit()


def load_measured(cluster: ClusterSpec, bench: str, log: str | None, prompts: Prompts | None) -> Measured:
    """A benchmark, and its log where there is one.

    Raises:
        UserError: what is wrong with either, or the log is of another run.
    """
    benchmark = read_benchmark(bench)
    if prompts is not None and prompts.workload is not None:
        check_prompts(prompts.workload, benchmark)
    if log is None:
        return Measured(benchmark=benchmark, steps=None, prompts=prompts or Prompts())
    instance = cluster.instances[0]
    if len(cluster.instances) > 1:
        raise UserError(
            [
                Problem(
                    log,
                    f"a log is of one engine, but {cluster.source} has {len(cluster.instances)} instances",
                )
            ]
        )
    steps = match_log(
        read_server_log(log),
        benchmark,
        instance.pp_size,
        caches=instance.scheduler.enable_prefix_caching,
    )
    found = prompts or Prompts(cached_tokens=steps.cached_tokens)
    return Measured(benchmark=benchmark, steps=steps, prompts=found)


def _read(question: Question) -> tuple[ClusterSpec, list[Measured]]:
    problems: list[Problem] = []
    if question.logs and len(question.logs) != len(question.benches):
        problems.append(
            Problem(
                "--log",
                f"{len(question.logs)} logs for {len(question.benches)} benchmarks: give one each, in order, or none",
            )
        )
    cluster = None
    try:
        cluster = load_cluster(question.cluster, profile_root=question.profile_root, any_hardware=True)
        problems += _unlike(cluster)
    except UserError as error:
        problems += error.problems
    measured: list[Measured] = []
    logs = question.logs if len(question.logs) == len(question.benches) else (None,) * len(question.benches)
    for bench, log in zip(question.benches, logs, strict=True):
        try:
            if cluster is None:
                read_benchmark(bench)
                continue
            one = load_measured(cluster, bench, log, question.prompts)
            check_enough(one.benchmark)
            measured.append(one)
        except UserError as error:
            problems += error.problems
    if problems or cluster is None:
        raise UserError(problems)
    return cluster, measured


def _unlike(cluster: ClusterSpec) -> list[Problem]:
    """Instances that one set of parameters cannot stand for."""
    first = cluster.instances[0]
    return [
        Problem(
            one.where, f"differs from the first instance in {what}: calibrate one kind of instance at a time"
        )
        for one in cluster.instances
        for what, same in (
            (
                "hardware",
                one.hardware == first.hardware and len({one.hardware, *(one.stage_hardware or ())}) == 1,
            ),
            ("model", one.model == first.model),
            ("parallelism", (one.tp_size, one.pp_size) == (first.tp_size, first.pp_size)),
        )
        if not same
    ]


def _widened(estimate: Estimate, joint: Estimate) -> Estimate:
    """The estimate with what is unsure of the other parameters added, as the fit of all together has it."""
    if not (estimate.identified and joint.identified):
        return estimate
    half = math.hypot(estimate.high - estimate.value, joint.high - joint.value)
    return replace(estimate, low=max(0.0, estimate.value - half), high=estimate.value + half)


def _reorders(scheduler: SchedulerOptions) -> bool:
    """Whether prompts are computed otherwise than whole and first come, first served."""
    plain = scheduler.policy == "vllm" and scheduler.scheduling_policy == "fcfs"
    return not plain or scheduler.long_prefill_token_threshold > 0


def _middle(ordered: FloatArray) -> FloatArray:
    """All but the tenths at both ends."""
    cut = len(ordered) // 10
    return ordered[cut : len(ordered) - cut]


def _quick(ttft_s: FloatArray, values: FloatArray) -> FloatArray:
    """The values of the half with the shorter TTFTs: they waited least for others."""
    return values[ttft_s <= np.median(ttft_s)]


class _Fitter:
    def __init__(
        self, question: Question, cluster: ClusterSpec, measured: Sequence[Measured], tell: Tell
    ) -> None:
        self._question = question
        self._cluster = cluster
        self._instance = cluster.instances[0]
        self._measured = measured
        self._tell = tell
        self._benchmarks = [one.benchmark for one in measured]
        self._replays = [
            Replay(cluster, one.benchmark, prompts=one.prompts, as_seen=True) for one in measured
        ]
        self._cost, self._built = self._cost_source()
        basis = () if self._built is None else self._built[0].deployment.basis
        self._basis = basis
        self._priors = self._make_priors(basis)
        self._method, self._steps = self._find_steps()
        self._simulations = 0

    def fit(self) -> Fit:
        """Fit the first half, see what that makes of the second, then fit everything."""
        halves = [one.first_half() for one in self._benchmarks]
        self._tell("fitting the first half")
        half, _, _ = self._fit_to(halves, self._priors)
        half_simulated = self._predicted(half)
        held_out = [
            tuple(compare(one, simulated, ~mask))
            for one, simulated, mask in zip(self._benchmarks, half_simulated, halves, strict=True)
        ]
        self._tell("fitting everything")
        everything = [np.ones(len(one), dtype=bool) for one in self._benchmarks]
        found, errors, noise = self._fit_to(everything, self._priors, {one.name: one.value for one in half})
        return Fit(
            cluster=self._cluster,
            instance=self._instance,
            cost=self._cost,
            cost_basis=self._basis,
            method=self._method,
            measured=tuple(self._measured),
            simulated=tuple(self._predicted(found)),
            half_simulated=tuple(half_simulated),
            estimates=tuple(found),
            noise=noise if self._question.noise else None,
            steps=tuple(self._steps),
            step_errors=errors,
            held_out=tuple(held_out),
            simulations=self._simulations,
            notes=tuple(self._notes(found)),
        )

    def _cost_source(self) -> tuple[str, list[BuiltInstance] | None]:
        """Kernel times and the instances built with them, or that there are none."""
        wanted = self._question.cost
        root = None if self._question.profile_root is None else Path(self._question.profile_root)
        known = find_hardware(self._instance.hardware) is not None or (
            root is not None and (root / self._instance.hardware).is_dir()
        )
        if wanted == FITTED or (wanted == "auto" and not known):
            return FITTED, None
        if not known:
            message = f"no kernel times for '{self._instance.hardware}': leave --cost out, and its step cost is fitted"
            raise UserError([Problem(self._instance.where, message)])
        bare = replace(
            self._cluster,
            instances=tuple(
                replace(one, overhead=replace(one.overhead, prefill_step_ns=0))
                for one in self._cluster.instances
            ),
        )
        return KERNELS, build_instances(bare, root)

    def _find_steps(self) -> tuple[str, list[MatchedSteps]]:
        """How to fit, and the steps to fit to: of the logs, of the clients' tokens, or none."""
        scheduler = self._instance.scheduler
        if self._instance.pp_size > 1 or len(self._cluster.instances) > 1:
            return SIMULATION, []
        logged = [one.steps for one in self._measured if one.steps is not None]
        if logged:
            return STEPS, logged
        if any(one.prompts.known for one in self._measured) or _reorders(scheduler):
            return SIMULATION, []
        found = [steps_of_client(one, scheduler.max_num_batched_tokens) for one in self._benchmarks]
        sure = [one for one in found if one is not None]
        return (TOKENS, sure) if len(sure) == len(found) else (SIMULATION, [])

    def _make_priors(self, basis: Sequence[str]) -> list[Prior]:
        if self._cost == KERNELS:
            priors = kernel_priors(self._instance, self._benchmarks, basis)
        else:
            priors = fitted_priors(self._instance, self._benchmarks)
        if all(one.engine_clock for one in self._benchmarks):
            # Nothing of the client's is in such times.
            return [
                replace(prior, value=0.0, sigma=0.0) if prior.name == "request_ns" else prior
                for prior in priors
            ]
        return priors

    def _fit_to(
        self,
        chosen: Sequence[BoolArray],
        priors: Sequence[Prior],
        start: dict[str, float] | None = None,
    ) -> tuple[list[Estimate], FloatArray | None, StepNoise | None]:
        if self._method == SIMULATION:
            found = search(self._serve, self._benchmarks, chosen, priors, start)
            self._simulations += found.simulations
            known = {one.name: one for one in found.estimates}
            own = self._request(found.values(), chosen, priors)
            known["request_ns"] = _widened(own, known["request_ns"])
            return [known[prior.name] for prior in priors], None, None
        runs = list(zip(self._benchmarks, self._steps, strict=True))
        kernels = None if self._built is None else self._built[0].cost.stage
        fitted = fit_steps(
            runs,
            chosen,
            priors,
            kernels,
            asynchronous=self._instance.scheduler.async_scheduling,
            host_included=self._method == TOKENS,
        )
        known = {one.name: one for one in fitted.estimates}
        known["request_ns"] = self._request(fitted.values(), chosen, priors)
        return [known[prior.name] for prior in priors], fitted.errors, fitted.noise

    def _request(
        self, values: dict[str, float], chosen: Sequence[BoolArray], priors: Sequence[Prior]
    ) -> Estimate:
        """What passes before the engine has a request: so much that the distribution of TTFTs is met.

        What delays a request is skewed: paired request by request, the middle of the differences is met and the
        middle of the TTFTs is not. So both are sorted, the tenths at the ends are left out (stalls), and the sum of
        absolute differences of logarithms is least, beside the prior.
        """
        prior = next(one for one in priors if one.name == "request_ns")
        if not prior.free:
            return estimates([prior], np.array([prior.value]), np.zeros(1), np.zeros(1, dtype=bool), 0.0)[0]

        def serve(delay_ms: float) -> list[FloatArray]:
            self._simulations += len(self._replays)
            served = self._serve({**values, "request_ns": delay_ms * NS_PER_MS})
            return [one.ttft_s[mask] for one, mask in zip(served, chosen, strict=True)]

        seen = [one.ttft_s[mask] for one, mask in zip(self._benchmarks, chosen, strict=True)]

        def loss(delay_ms: float) -> float:
            off = sum(
                float(np.abs(_middle(np.log(np.sort(one))) - _middle(np.log(np.sort(own)))).sum())
                for one, own in zip(serve(delay_ms), seen, strict=True)
            )
            return off / _TTFT_SPREAD + 0.5 * ((delay_ms * NS_PER_MS - prior.value) / prior.sigma) ** 2

        fastest = min(float(own.min()) for own in seen) * 1e3
        grid = np.linspace(0.0, max(fastest, 1.0), 13)
        best = int(np.argmin([loss(float(one)) for one in grid]))
        bounds = (float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)]))
        found: Any = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.05})
        off = np.concatenate(
            [_quick(own, one - own) for one, own in zip(serve(float(found.x)), seen, strict=True)]
        )
        middles = [float(np.median(part)) for part in np.array_split(off, _CLUSTERS) if len(part)]
        data_sigma = float(np.std(middles, ddof=1)) / np.sqrt(len(middles)) * NS_PER_S
        sigma = 1 / np.sqrt(1 / max(data_sigma, 1.0) ** 2 + 1 / prior.sigma**2)
        quantile = float(stats.t.ppf(0.975, _CLUSTERS - 1))
        seen_better = learnt([prior], np.array([sigma]))
        value = float(found.x) * NS_PER_MS if seen_better[0] else prior.value
        return estimates([prior], np.array([value]), np.array([sigma]), seen_better, quantile)[0]

    def _serve(self, values: dict[str, float]) -> list[Benchmark]:
        calibration = to_calibration(self._instance, self._cost, values)
        cluster, built = with_values(self._cluster, self._built, calibration)
        return [replay.serve(cluster, built) for replay in self._replays]

    def _predicted(self, found: Sequence[Estimate]) -> list[Benchmark]:
        """As a run would predict it: requests arrive in the order of sending."""
        calibration = to_calibration(self._instance, self._cost, {one.name: one.value for one in found})
        cluster, built = with_values(self._cluster, self._built, calibration)
        return [
            Replay(self._cluster, one.benchmark, prompts=one.prompts).serve(cluster, built)
            for one in self._measured
        ]

    def _notes(self, found: Sequence[Estimate]) -> list[str]:
        notes = [note for one in self._benchmarks for note in one.notes]
        unknown = [
            one.name
            for one, prior in zip(found, self._priors, strict=True)
            if not one.identified and prior.free
        ]
        if unknown:
            notes.append(f"not identified by these files, left at the prior: {', '.join(unknown)}")
        if self._method == SIMULATION and any(one.steps is not None for one in self._measured):
            notes.append(
                f"pp {self._instance.pp_size}: the log's elapsed times are those between steps, not of steps, so they "
                "are not fitted to; every line of it agrees with the benchmark"
            )
        for one in self._measured:
            if one.steps is not None and one.steps.note:
                notes.append(one.steps.note)
            if one.steps is not None and not one.steps.complete:
                notes.append(
                    f"{one.benchmark.source}: the log is matched up to step {len(one.steps)}; the rest is left out"
                )
            if self._instance.scheduler.enable_prefix_caching and not one.prompts.known and one.steps is None:
                notes.append(
                    f"{one.benchmark.source}: the server caches prefixes, and nothing says that prompts share any: "
                    "no hits are assumed"
                )
        if self._question.noise and self._method == SIMULATION:
            notes.append("noise is read from single steps, and there are none here, so none is kept")
        return notes
