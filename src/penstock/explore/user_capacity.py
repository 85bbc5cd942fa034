"""How many users a deployment can have within an SLO, each of whom sends a request, waits, and thinks.

A closed loop has no rate that is offered: users who wait send nothing. So no queue grows without end, and the
bounds of the SLO alone decide. Steady states and their intervals are those of :mod:`penstock.explore.steady_state`;
the interval of the answer goes from the most users with whom the SLO holds for sure to the fewest with whom it breaks
for sure, as in :mod:`penstock.explore.capacity`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from penstock.explore.bottleneck import Bottleneck
from penstock.explore.capacity import PER_CONCURRENT, CapacityOptions, HopelessError
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.slo import shown_ns
from penstock.explore.steady_state import SteadyRun, SteadyState

_FIRST_STEP = 1.25
_ROUGHLY = 0.1
_SURE_STEPS = 10
_MOST_USERS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCapacity:
    """``users`` hold the SLO, ``low`` to ``high`` is the interval; ``high`` is None where nothing breaks for sure.
    ``held`` and ``broke`` are the pooled steady states next to the answer, whose rates are what users come to."""

    users: int
    low: int
    high: int | None
    held: SteadyState
    broke: SteadyState
    broke_users: int
    requests: int
    trials: tuple[Trial, ...]
    why_wide: str | None
    bottleneck: Bottleneck


def find_users(load_test: LoadTest, think_s: float, options: CapacityOptions) -> UserCapacity:
    """The most users with whom the SLO of the load test holds.

    Raises:
        HopelessError: it breaks with one user alone, or with no number of them.
    """
    return _Search(load_test, think_s, options).run()


class _Search:
    """At the present length of runs."""

    def __init__(self, load_test: LoadTest, think_s: float, options: CapacityOptions) -> None:
        self._load_test = load_test
        self._think_s = think_s
        self._options = options
        self._count = load_test.offered_load.requests(options.requests)
        self._trials: list[Trial] = []
        self._runs: dict[tuple[int, int], SteadyRun] = {}

    def run(self) -> UserCapacity:
        """The whole search."""
        options = self._options
        trial, full = self._load_test.full_throughput(self._count)
        self._trials.append(trial)
        if full is None or not trial.requests_per_s:
            raise HopelessError(f"{self._load_test.slo}: every request is rejected", self._trials)
        # Little's law, for those in the engine and those who think.
        guess = full.running + full.requests_per_s.estimate * self._think_s
        low, high = self._bracket(max(round(guess), 1), _FIRST_STEP, seeds=1)
        low, high = self._halve(low, high, _ROUGHLY, seeds=1)
        # Each user has to come several times for a run to say how many may be there.
        self._lengthen(max(self._count, PER_CONCURRENT * high))
        step = options.tolerance / 4
        while True:
            low, high = self._bracket(max(round(math.sqrt(low * high)), 1), 1 + step, options.seeds)
            low, high = self._halve(low, high, step, options.seeds)
            sure_low = self._sure(low, step, -1, lambda state: state.surely_holds)
            sure_high = self._sure(high, step, 1, lambda state: state.surely_breaks)
            width = ((sure_high or math.inf) - (sure_low or 0)) / low
            narrow = width <= max(options.tolerance, 2 / low)
            if narrow or self._count >= options.max_requests:
                break
            self._lengthen(self._count * (2 if width < 2 * options.tolerance else 4))
        broke = self._state(high, options.seeds)
        return UserCapacity(
            users=low,
            low=sure_low or 0,
            high=sure_high,
            held=self._state(low, options.seeds),
            broke=broke,
            broke_users=high,
            requests=self._count,
            trials=tuple(self._trials),
            why_wide=None if narrow else f"runs of {self._count:,} requests, the most allowed, leave it so",
            bottleneck=self._load_test.explain_users(high, self._think_s, self._count, broke.worst),
        )

    def _lengthen(self, count: int) -> None:
        count = self._load_test.offered_load.requests(min(count, self._options.max_requests))
        if count != self._count:
            self._count = count
            self._runs.clear()

    def _state(self, users: int, seeds: int) -> SteadyState:
        runs: list[SteadyRun] = []
        for seed in range(seeds):
            if (users, seed) not in self._runs:
                trial, run = self._load_test.run_users(users, self._think_s, seed, self._count)
                self._trials.append(trial)
                self._runs[users, seed] = run
            runs.append(self._runs[users, seed])
        rate = sum(run.finished_per_s for run in runs) / seeds
        return SteadyState(rate, tuple(runs), self._load_test.slo)

    def _holds(self, users: int, seeds: int) -> bool:
        return self._state(users, seeds).holds

    def _bracket(self, guess: int, step: float, seeds: int) -> tuple[int, int]:
        """Users with whom it holds, and more with whom it breaks; each step is the square of the one before."""
        rising = self._holds(guess, seeds)
        before = guess
        while True:
            if not rising and before == 1:
                raise HopelessError(self._hopeless(seeds), self._trials)
            users = math.ceil(before * step) if rising else math.floor(before / step)
            users = max(before + 1, users) if rising else max(min(before - 1, users), 1)
            if users > _MOST_USERS or (rising and before > self._count):
                message = (
                    f"holds with any number of users: runs of {self._count:,} requests have no more at once"
                )
                raise HopelessError(message, self._trials)
            if self._holds(users, seeds) is not rising:
                return (before, users) if rising else (users, before)
            before = users
            step = min(step * step, 2.0)

    def _halve(self, low: int, high: int, resolution: float, seeds: int) -> tuple[int, int]:
        while high - low > max(resolution * low, 1):
            middle = min(max(round(math.sqrt(low * high)), low + 1), high - 1)
            low, high = (middle, high) if self._holds(middle, seeds) else (low, middle)
        return low, high

    def _sure(
        self, start: int, step: float, direction: int, sure: Callable[[SteadyState], bool]
    ) -> int | None:
        """The nearest number of users from ``start`` in a direction for whom it is sure; None if none is near."""
        seeds = self._options.seeds
        unsure, users = start, start
        for place in range(_SURE_STEPS):
            if sure(self._state(users, seeds)):
                break
            unsure = users
            further = round(users * (1 + step * 1.6**place) ** direction)
            users = min(further, users - 1) if direction < 0 else max(further, users + 1)
            if users < 1:
                return None
        else:
            return None
        while abs(users - unsure) > max(1.5 * step * start, 1):
            middle = (users + unsure) // 2
            if middle in (users, unsure):
                break
            if sure(self._state(middle, seeds)):
                users = middle
            else:
                unsure = middle
        return users

    def _hopeless(self, seeds: int) -> str:
        alone = self._state(1, seeds)
        found = [
            f"{name} is {shown_ns(interval.estimate)}"
            for name, interval in alone.bounds_ns.items()
            if name == alone.worst
        ]
        return f"cannot hold with a single user: {'; '.join(found) or 'requests are rejected'}"
