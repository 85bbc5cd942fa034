"""What a search says of its points beside longer runs that it has not made.

    penstock explore examples/explore.yaml -o outputs/explore
    python -m benchmarks.explore_notes examples/explore.yaml outputs/explore [--points 12] [--requests 6000]

Of each kind of word a sample is checked with runs of ``--requests`` requests and seeds of their own: a capacity holds
at the lower end of its interval and breaks at the upper one; the metric that is named breaks there first; a point that
was stopped after its first look, looked at in full, is still beaten by one of the front on every objective; one that is
hopeless misses the SLO with requests that come one by one.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from penstock.explore.evaluate import FULL, Evaluator
from penstock.explore.load_test import LoadTest
from penstock.explore.objectives import beaten, values_of
from penstock.explore.pool import InProcess
from penstock.explore.result import HOPELESS, OK, STOPPED, PointResult
from penstock.explore.search import Step
from penstock.explore.steady_state import SteadyState
from penstock.explore.study import StudyOutcome, evaluator_of, run_study
from penstock.explore.study_spec import load_study

SEEDS = (50, 51, 52)
ALONE = 1 / 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A search that is done, and how its points are run again."""

    outcome: StudyOutcome
    evaluator: Evaluator
    requests: int

    def state(self, load_test: LoadTest, rate_per_s: float) -> SteadyState:
        """Runs with seeds of their own, pooled."""
        runs = [load_test.run_at(rate_per_s, seed, self.requests)[1] for seed in SEEDS]
        return SteadyState(rate_per_s, tuple(run for run in runs if run is not None), load_test.slo)

    def holds_and_breaks(self, result: PointResult) -> str | None:
        """At the ends of the interval of a capacity; None where it is so, else what is not."""
        load_test = self.evaluator.load_test(result.point)
        assert result.low_per_s is not None
        if result.low_per_s and not self.state(load_test, result.low_per_s).holds:
            return f"misses at its lower end, {result.low_per_s:.4g}"
        if result.high_per_s is not None and self.state(load_test, result.high_per_s).holds:
            return f"holds at its upper end, {result.high_per_s:.4g}"
        return None

    def limited_by(self, result: PointResult) -> str | None:
        """The same metric above the capacity."""
        if result.high_per_s is None:
            return None
        state = self.state(self.evaluator.load_test(result.point), 1.02 * result.high_per_s)
        same = state.worst == result.limiting_metric
        return None if same else f"is limited by {state.worst}, not {result.limiting_metric}"

    def is_beaten(self, result: PointResult) -> str | None:
        """Of a point that was stopped: some point of the front is better on every objective."""
        load = replace(self.evaluator.load, requests=self.requests)
        full = replace(self.evaluator, load=load)(self.evaluator.job(result.point, FULL))
        objectives = self.outcome.spec.objectives
        mine = values_of(full, objectives)
        front = [values_of(self.outcome.results[index], objectives) for index in self.outcome.front]
        others = [one for one in front if one is not None]
        if mine is None or beaten(mine, others, objectives, 1.0) is not None:
            return None
        return f"would be on the front, with {', '.join(f'{value:.4g}' for value in mine)}"

    def is_hopeless(self, result: PointResult) -> str | None:
        """Of a point that holds at no rate."""
        load_test = self.evaluator.load_test(result.point)
        state = self.state(load_test, max(trial.rate_per_s or 0.0 for trial in result.trials) * ALONE)
        return "holds where requests come one by one" if state.holds else None


def check(
    what: str,
    results: Sequence[PointResult],
    rng: random.Random,
    count: int,
    ask: Callable[[PointResult], str | None],
) -> None:
    """A line for what is so, and one for each that is not."""
    chosen = rng.sample(list(results), min(count, len(results)))
    wrong = [(one, found) for one in chosen if (found := ask(one)) is not None]
    print(f"{what}: {len(chosen) - len(wrong)} of {len(chosen)} as said, of {len(results)}", flush=True)
    for one, found in wrong:
        print(f"  {one.point.label} {found}", flush=True)


def main() -> None:
    """All kinds of words."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--requests", type=int, default=6000)
    given = parser.parse_args()
    spec = load_study(given.spec)

    def quiet(_: Step) -> None:
        """It is done already."""

    outcome = run_study(spec, given.results, InProcess, quiet)
    bench = Bench(outcome=outcome, evaluator=evaluator_of(spec), requests=given.requests)
    rng = random.Random(0)
    by_status = {
        status: [one for one in outcome.results if one.status == status] for status in (OK, STOPPED, HOPELESS)
    }
    found = [one for one in by_status[OK] if not one.unbounded and one.low_per_s is not None]
    check("capacities with their intervals", found, rng, given.points, bench.holds_and_breaks)
    check("what limits", found, rng, given.points, bench.limited_by)
    check("stopped after a first look", by_status[STOPPED], rng, given.points, bench.is_beaten)
    check("hopeless", by_status[HOPELESS], rng, given.points, bench.is_hopeless)


if __name__ == "__main__":
    main()
