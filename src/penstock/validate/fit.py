"""Stage costs and engine overheads of a real run, from half of its steps.

A step on a stage takes a sum of five terms times noise. The terms are those with the least sum of absolute
deviations; the noise is measured over fitted, kept per step for all stages together, and drawn from again in the
simulation. On a shared machine it matters: two stages that hand over to each other wait for the slower of two
draws, so the mean alone makes a pipeline too fast.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from penstock.cost.step_cost import StepLoad
from penstock.spec.options import EngineOverhead
from penstock.validate.real_run import RealRun, Row

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FittedStage:
    """``base_ns``, and ``prefill_base_ns`` more if a prefill chunk is in the step; then by prefill token, by
    decode, and by token of context (computed before). None is negative."""

    base_ns: float
    prefill_base_ns: float
    per_prefill_token_ns: float
    per_decode_ns: float
    per_context_ns: float

    def time_ns(self, terms: Sequence[float]) -> float:
        """The time for (1, any prefill, prefill tokens, decodes, context)."""
        own = (
            self.base_ns,
            self.prefill_base_ns,
            self.per_prefill_token_ns,
            self.per_decode_ns,
            self.per_context_ns,
        )
        return sum(each * term for each, term in zip(own, terms, strict=True))


@dataclass(frozen=True, slots=True)
class FittedRun:
    """``noise[i]`` are the stages' factors of the i-th fitted step. ``hop_ns`` from a stage's end until the
    next has received. ``client_in_ns``: from a request's arrival until an idle engine schedules it;
    ``client_out_ns``: from the engine's update until the client holds the token."""

    stages: tuple[FittedStage, ...]
    noise: tuple[tuple[float, ...], ...]
    hop_ns: int
    overhead: EngineOverhead
    client_in_ns: int
    client_out_ns: int
    steps: int


class NoisyStageCost:
    """Fitted stage times, each step multiplied by the noise of a measured step, drawn with a seed."""

    def __init__(self, fitted: FittedRun, seed: int) -> None:
        self._stages = fitted.stages
        self._noise = fitted.noise
        self._random = random.Random(seed)

    def stage_ns(self, load: StepLoad) -> Sequence[int]:
        """See :meth:`penstock.cost.step_cost.StageCost.stage_ns`."""
        context = load.prefill_context + load.decode_context
        terms = (1, load.prefill_tokens > 0, load.prefill_tokens, load.decodes, context)
        factors = self._noise[self._random.randrange(len(self._noise))]
        return [
            max(1, round(stage.time_ns(terms) * factor))
            for stage, factor in zip(self._stages, factors, strict=True)
        ]

    def notes(self) -> tuple[str, ...]:
        """Nothing to note: the cost is a fit as a whole."""
        return ()


def fit_run(run: RealRun, half: int = 0) -> FittedRun:
    """Fit every second step, the even ones (``half`` 0) or the odd ones (1)."""
    steps = run.steps[half::2]
    inputs = np.array([_terms(step) for step in steps], dtype=np.float64)
    stages: list[FittedStage] = []
    noise: list[FloatArray] = []
    for stage in range(run.pp_size):
        busy = np.array([stage_busy_ns(step, stage) for step in steps], dtype=np.float64)
        line = _not_negative(inputs, busy)
        stages.append(FittedStage(*map(float, line)))
        noise.append(busy / (inputs @ line))
    into, out = _client_delays(run, half)
    return FittedRun(
        stages=tuple(stages),
        noise=tuple(tuple(map(float, row)) for row in np.stack(noise, axis=1)),
        hop_ns=_hop_ns(run, steps),
        overhead=_overhead(run, steps),
        client_in_ns=into,
        client_out_ns=out,
        steps=len(steps),
    )


def stage_busy_ns(step: Row, stage: int) -> int:
    """How long a worker was taken by a step, receiving not counted: until its sampling or sending is over."""
    times = step["stages"][stage]
    end = times["sample_end_ns"] or times["end_ns"]
    return end - times["start_ns"] - times["recv_wait_ns"]


def _terms(step: Row) -> tuple[int, bool, int, int, int]:
    prefill = sum(new for _, new, _ in step["scheduled"] if new > 1)
    decodes = sum(new == 1 for _, new, _ in step["scheduled"])
    return 1, prefill > 0, prefill, decodes, sum(computed for _, _, computed in step["scheduled"])


def least_absolute_deviations(inputs: FloatArray, values: FloatArray, rounds: int = 60) -> FloatArray:
    """Coefficients with the least sum of absolute deviations, by iteratively reweighted least squares.

    Shapes (steps, coefficients), (steps,) -> (coefficients,).
    """
    weights = np.ones(len(values))
    solution = np.zeros(inputs.shape[1])
    smallest = 1e-3 * float(np.median(np.abs(values)))
    for _ in range(rounds):
        weighted = inputs * weights[:, None]
        solution = np.linalg.solve(weighted.T @ inputs, weighted.T @ values)
        weights = 1 / np.maximum(np.abs(values - inputs @ solution), smallest)
    return cast("FloatArray", solution)


def _not_negative(inputs: FloatArray, busy: FloatArray) -> FloatArray:
    """The fit with every coefficient that comes out negative left out, the most negative share first."""
    kept = list(range(inputs.shape[1]))
    while True:
        found = least_absolute_deviations(inputs[:, kept], busy)
        shares = found * inputs[:, kept].mean(axis=0)
        if shares.min() >= 0:
            solution = np.zeros(inputs.shape[1])
            solution[kept] = found
            return solution
        del kept[int(shares.argmin())]


def _hop_ns(run: RealRun, steps: Sequence[Row]) -> int:
    """From the end of a stage until the next has received, where the next was there waiting."""
    hops = [
        after["start_ns"] + after["recv_wait_ns"] - (before["sample_end_ns"] or before["end_ns"])
        for step in steps
        for before, after in pairwise(step["stages"])
        if after["recv_wait_ns"] > 0 and after["start_ns"] < before["end_ns"]
    ]
    return max(0, _median(hops)) if run.pp_size > 1 else 0


def _overhead(run: RealRun, steps: Sequence[Row]) -> EngineOverhead:
    # The way to the first stage shows only where that stage had nothing else to do.
    chosen = {row["t_schedule_ns"] for row in steps}
    to_first = [
        row["stages"][0]["start_ns"] - row["t_schedule_ns"] - row["schedule_cpu_ns"]
        for before, row in pairwise(run.iterations)
        if row["t_schedule_ns"] in chosen and _worker_free_ns(before) < row["t_schedule_ns"]
    ]
    from_last = [row["t_update_ns"] - _worker_free_ns(row, -1) for row in steps]
    return EngineOverhead(
        schedule_ns=_median([row["schedule_cpu_ns"] for row in steps]),
        update_ns=_update_ns(run, {row["t_update_ns"] for row in steps}),
        ipc_to_first_stage_ns=_median(to_first),
        ipc_from_last_stage_ns=_median(from_last),
        source="medians of the measured run",
    )


def _worker_free_ns(row: Row, stage: int = 0) -> int:
    times = row["stages"][stage]
    return times["sample_end_ns"] or times["end_ns"]


def _update_ns(run: RealRun, chosen: set[int]) -> int:
    """From the start of an update (one of those ``chosen``) to the next schedule(), where no idle sleep came
    between."""
    events = sorted(
        [(row["t_schedule_ns"], "schedule", bool(row["scheduled"])) for row in run.iterations]
        + [(row["t_update_ns"], "update", True) for row in run.iterations if row["t_update_ns"]]
    )
    gaps: list[int] = []
    slept = False
    for (at, kind, worked), (then, next_kind, _) in pairwise(events):
        if kind == "schedule":
            slept = not worked
        elif next_kind == "schedule" and not slept and at in chosen:
            gaps.append(then - at)
    return _median(gaps)


def _client_delays(run: RealRun, half: int) -> tuple[int, int]:
    first: dict[str, int] = {}
    tokens: dict[str, list[int]] = {}
    prompts = {row["req_id"]: row["input_toks"] for row in run.requests}
    for step in run.steps:
        for name, new, computed in step["scheduled"]:
            first.setdefault(name, step["t_schedule_ns"])
            if computed + new >= prompts[name]:
                tokens.setdefault(name, []).append(step["t_update_ns"])
    seen = run.client[half::2]
    sent = _median([row["sent_ns"] - row["arrival_time_ns"] for row in seen])
    # The tenth percentile is that of an engine that was free; the rest of the delay is waiting, which the
    # simulation has to find by itself.
    waits = [first[row["req_id"]] - row["sent_ns"] for row in seen]
    back = [
        held - updated
        for row in seen
        for held, updated in zip(row["token_times_ns"], tokens[row["req_id"]], strict=False)
    ]
    return sent + int(np.percentile(np.array(waits), 10)), _median(back)


def _median(values: Sequence[Any]) -> int:
    return int(np.median(np.array(values))) if values else 0
