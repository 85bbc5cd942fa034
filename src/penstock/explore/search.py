"""How a space is gone through. Which points are evaluated never depends on who finishes first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from penstock.explore.design_point import DesignPoint
from penstock.explore.evaluate import FULL, PILOT, Evaluator, PointJob, lost
from penstock.explore.journal import Journal
from penstock.explore.objectives import Objective, beaten, values_of
from penstock.explore.pool import Executor, Lost
from penstock.explore.result import STOPPED, PointResult
from penstock.explore.space import Feasibility, Infeasible, PrunedCounter, Spaces

if TYPE_CHECKING:
    import optuna

BATCH = 16
"""Points that Optuna proposes before it is told of any of them: fixed, so that the number of workers cannot
change what it proposes."""

_MISSES_PER_TRIAL = 50
_ENUMERABLE = 20_000
"""Spaces up to this size are looked through for points that can run before deciding how to search them."""


@dataclass(frozen=True, slots=True)
class Step:
    """How far a search is, for a display. ``known`` of the ``total`` were on disk."""

    phase: str
    done: int
    total: int


class Batches:
    """Evaluates points in two phases: a pilot with few requests, and the points that it does not stop in full."""

    def __init__(
        self,
        evaluator: Evaluator,
        executor: Executor[PointJob, PointResult],
        journal: Journal,
        objectives: Sequence[Objective],
        early_stop: float | None,
        progress: Callable[[Step], None],
    ) -> None:
        self._evaluator = evaluator
        self._executor = executor
        self._journal = journal
        self._objectives = objectives
        self._early_stop = early_stop if evaluator.load.pilot is not None else None
        self._progress = progress
        self._pilots: dict[DesignPoint, PointResult] = {}

    def evaluate(self, points: Sequence[DesignPoint]) -> list[PointResult]:
        """The results, in the order of the points."""
        if self._early_stop is None:
            return self._phase([self._evaluator.job(point, FULL) for point in points], FULL)
        pilots = self._phase([self._evaluator.job(point, PILOT) for point in points], PILOT)
        self._pilots.update(zip(points, pilots, strict=True))
        stopped = self._stopped(points)
        going_on = [point for point in points if point not in stopped]
        jobs = [self._evaluator.job(point, FULL, self._pilots[point].rate_per_s) for point in going_on]
        full = dict(zip(going_on, self._phase(jobs, FULL), strict=True))
        return [stopped.get(point) or full[point] for point in points]

    def _stopped(self, points: Sequence[DesignPoint]) -> dict[DesignPoint, PointResult]:
        """Points beaten so clearly in the pilot that a full look is not worth it, and those without a result."""
        ranked = [
            (point, values)
            for point, result in self._pilots.items()
            if (values := values_of(result, self._objectives))
        ]
        others = [values for _, values in ranked]
        stopped: dict[DesignPoint, PointResult] = {}
        for point in points:
            result = self._pilots[point]
            values = values_of(result, self._objectives)
            if values is None:
                stopped[point] = result
                continue
            winner = beaten(values, others, self._objectives, self._early_stop or 1.0)
            if winner is not None and ranked[winner][0] != point:
                by = ranked[winner][0].label
                reason = f"beaten {self._early_stop:g} times on every objective in the pilot by {by}"
                stopped[point] = replace(result, status=STOPPED, reason=reason)
        return stopped

    def _phase(self, jobs: Sequence[PointJob], phase: str) -> list[PointResult]:
        known = self._journal.known
        missing = list({job.key: job for job in jobs if job.key not in known}.values())
        total = len({job.key for job in jobs})
        done = total - len(missing)
        self._progress(Step(phase, done, total))
        for index, outcome in self._executor.run(missing):
            job = missing[index]
            result = lost(job, outcome.reason) if isinstance(outcome, Lost) else outcome
            self._journal.add(result)
            done += 1
            self._progress(Step(phase, done, total))
        # Points of one config share its result, each under its own name.
        return [replace(known[job.key], point=job.point) for job in jobs]


@dataclass(slots=True)
class Proposals:
    """Optuna's view of a space: the index of each dimension's value. Seeded TPE, several objectives."""

    study: optuna.Study
    space: Spaces
    feasibility: Feasibility
    objectives: Sequence[Objective]
    counter: PrunedCounter

    @classmethod
    def make(
        cls, space: Spaces, feasibility: Feasibility, objectives: Sequence[Objective], seed: int
    ) -> Proposals:
        """A fresh study in memory: what it was told before is on disk, and is told again in the same order."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # multivariate TPE is marked experimental in Optuna 4
            # Of several spaces each has its own choices, which are modelled apart.
            several = len(space.parts) > 1
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=several)
        high, low = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [high if objective.maximise else low for objective in objectives]
        study = optuna.create_study(directions=directions, sampler=sampler)
        return cls(study, space, feasibility, objectives, PrunedCounter())

    def ask(self, count: int, seen: set[DesignPoint]) -> list[tuple[optuna.trial.Trial, DesignPoint]]:
        """Up to ``count`` new points that can run; fewer if the proposals run dry."""
        from optuna.trial import TrialState

        batch: list[tuple[optuna.trial.Trial, DesignPoint]] = []
        for _ in range(count * _MISSES_PER_TRIAL):
            if len(batch) == count:
                break
            trial = self.study.ask()
            point = self.space.point(
                self.space.propose(
                    lambda name, values, trial=trial: int(trial.suggest_categorical(name, range(values)))
                )
            )
            fresh = self._fresh(point, seen)
            if fresh is not None:
                batch.append((trial, fresh))
                continue
            self.study.tell(trial, state=TrialState.FAIL)
        return batch

    def _fresh(self, point: DesignPoint | Infeasible, seen: set[DesignPoint]) -> DesignPoint | None:
        """The point if it is new and can run; counts those that cannot."""
        reason = point if isinstance(point, Infeasible) else None
        if isinstance(point, DesignPoint):
            point = self.feasibility.settled(point)
            if point in seen:
                return None
            seen.add(point)
            reason = self.feasibility.why_not(point)
            if reason is None:
                return point
        if reason is not None:
            self.counter.add(reason)
        return None

    def tell(
        self, batch: Sequence[tuple[optuna.trial.Trial, DesignPoint]], results: Sequence[PointResult]
    ) -> None:
        """What became of a batch. A stopped point's pilot counts; one without figures is no guide."""
        from optuna.trial import TrialState

        for (trial, _), result in zip(batch, results, strict=True):
            values = [objective.value(result) for objective in self.objectives]
            known = [value for value in values if value is not None]
            if len(known) == len(values):
                self.study.tell(trial, known)
            else:
                self.study.tell(trial, state=TrialState.FAIL)


def search_by_optuna(proposals: Proposals, batches: Batches, trials: int) -> Iterator[PointResult]:
    """Results of up to ``trials`` points, in the order in which they were proposed."""
    seen: set[DesignPoint] = set()
    done = 0
    while done < trials:
        batch = proposals.ask(min(BATCH, trials - done), seen)
        if not batch:
            return
        results = batches.evaluate([point for _, point in batch])
        proposals.tell(batch, results)
        done += len(batch)
        yield from results


def enumerable(space: Spaces) -> bool:
    """Whether the space is small enough to look at every choice."""
    return space.size <= _ENUMERABLE
