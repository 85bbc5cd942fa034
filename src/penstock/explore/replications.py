"""Runs of one deployment by rate and seed: each made once, all of the same length until they are made longer."""

from __future__ import annotations

from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.steady_state import FullThroughput, SteadyRun, SteadyState


class Replications:
    """``count`` requests a run, which :meth:`lengthen` raises up to ``most``; ``trials`` are all that were made."""

    def __init__(self, load_test: LoadTest, requests: int, most: int) -> None:
        self.load_test = load_test
        self.most = most
        self.count = min(load_test.offered_load.requests(requests), most)
        self.trials: list[Trial] = []
        self._runs: dict[tuple[float, int], SteadyRun] = {}
        self._states: dict[tuple[float, int], SteadyState] = {}

    @property
    def longest(self) -> bool:
        """Whether runs are as long as they may be."""
        return self.count >= self.most

    def state(self, rate_per_s: float, seeds: int) -> SteadyState:
        """So many replications at a rate, pooled."""
        known = self._states.get((rate_per_s, seeds))
        if known is not None:
            return known
        runs: list[SteadyRun] = []
        for seed in range(seeds):
            if (rate_per_s, seed) not in self._runs:
                trial, run = self.load_test.run_at(rate_per_s, seed, self.count)
                assert run is not None, "a finite rate"
                self.trials.append(trial)
                self._runs[rate_per_s, seed] = run
            runs.append(self._runs[rate_per_s, seed])
        state = SteadyState(rate_per_s, tuple(runs), self.load_test.slo)
        self._states[rate_per_s, seeds] = state
        return state

    def full(self) -> FullThroughput | None:
        """All requests at once; None if nothing finished."""
        trial, found = self.load_test.full_throughput(self.count)
        self.trials.append(trial)
        return found if trial.requests_per_s else None

    def lengthen(self, count: int) -> None:
        """Runs of ``count`` requests from here on, or as many as may be; those before are forgotten."""
        self.count = min(self.load_test.offered_load.requests(count), self.most)
        self._runs.clear()
        self._states.clear()


def rounded(rate_per_s: float) -> float:
    """Four digits: the rate that is printed is the rate that was run."""
    return float(f"{rate_per_s:.4g}")
