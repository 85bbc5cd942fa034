"""A search from its checked file to its results: which way to go through the space, and where they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import Problem, UserError
from penstock.explore.evaluate import Evaluator, PointJob, make_evaluator
from penstock.explore.journal import Journal
from penstock.explore.objectives import best_of, pareto_front
from penstock.explore.pool import Executor
from penstock.explore.result import PointResult
from penstock.explore.search import Batches, Proposals, Step, enumerable, search_by_optuna
from penstock.explore.space import Feasibility, Pruned, enumerate_points
from penstock.explore.study_spec import StudySpec

RESULTS_FILE = "results.jsonl"

MakeExecutor = Callable[[Callable[[PointJob], PointResult]], Executor[PointJob, PointResult]]


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """``results`` in the order of the space (or of Optuna's proposals), ``front`` indices into them,
    ``winner`` the one of the front that is best on the first objective."""

    spec: StudySpec
    method: str
    results: tuple[PointResult, ...]
    pruned: Pruned
    front: tuple[int, ...]
    notices: tuple[str, ...] = ()

    @property
    def winner(self) -> PointResult | None:
        """The best of the front (:func:`penstock.explore.objectives.best_of`); None if nothing is on it."""
        return best_of([self.results[index] for index in self.front], self.spec.objectives)

    @property
    def best_by_hardware(self) -> dict[str, PointResult]:
        """The best point of each hardware that has one, the best first."""
        kinds = dict.fromkeys(result.point.hardware for result in self.results)
        found = {
            kind: best
            for kind in kinds
            if (best := best_of([r for r in self.results if r.point.hardware == kind], self.spec.objectives))
        }
        first = self.spec.objectives[0]
        sign = -1 if first.maximise else 1
        return dict(sorted(found.items(), key=lambda item: sign * (first.value(item[1]) or 0.0)))


def run_study(
    spec: StudySpec, directory: Path, make_executor: MakeExecutor, progress: Callable[[Step], None]
) -> StudyOutcome:
    """Evaluate what the search asks for and ``directory`` does not know yet.

    Raises:
        UserError: no point of the space can run.
    """
    feasibility = Feasibility(spec.site, spec.profile_root, spec.calibration)
    evaluator = evaluator_of(spec)
    points, pruned = [], Pruned({}, {})
    if enumerable(spec.space):
        points, pruned = enumerate_points(spec.space, feasibility)
        _require_some(spec, len(points), pruned)
    exhaustive = spec.search.method == "exhaustive" or (
        spec.search.method == "auto" and 0 < len(points) <= spec.search.exhaustive_up_to
    )
    if exhaustive and not points:
        points, pruned = enumerate_points(spec.space, feasibility)
        _require_some(spec, len(points), pruned)
    with Journal(directory / RESULTS_FILE) as journal, make_executor(evaluator) as executor:
        batches = Batches(evaluator, executor, journal, spec.objectives, spec.search.early_stop, progress)
        if exhaustive:
            results = batches.evaluate(points)
        else:
            proposals = Proposals.make(spec.space, feasibility, spec.objectives, spec.search.seed)
            results = list(search_by_optuna(proposals, batches, spec.search.trials))
            pruned = proposals.counter.pruned()
            _require_some(spec, len(results), pruned)
    front = tuple(pareto_front(results, spec.objectives))
    return StudyOutcome(
        spec,
        "exhaustive" if exhaustive else "optuna",
        tuple(results),
        pruned,
        front,
        notices=tuple(journal.notices),
    )


def _require_some(spec: StudySpec, count: int, pruned: Pruned) -> None:
    if count:
        return
    where = f"{spec.source}: space"
    problems = [Problem(where, f"no point can run: all {pruned.total} are infeasible")]
    raise UserError([*problems, *(Problem(where, line) for line in pruned.lines())])


def evaluator_of(spec: StudySpec) -> Evaluator:
    """The evaluator that a study of ``spec`` would use."""
    return make_evaluator(spec.site, spec.load, spec.prices, spec.profile_root, spec.calibration)
