"""The highest request rate that a deployment can take for ever within an SLO.

**What is asked.** Capacity is a property of the steady state: the highest rate at which the SLO holds in the long run
and the queue does not grow without end. How a run is cut to its steady window, and what is an interval or an overload
there, stands in :mod:`penstock.explore.steady_state`.

**Search.** All requests at once show the throughput of a full system; the search for a rate that holds and one that
breaks begins below it, with one replication, and halves the interval between on a logarithmic scale. Then all
replications are pooled at each rate: the capacity lies between the highest rate at which their estimates hold and the
lowest above it at which they do not.

**Interval.** By inversion of the tests at single rates: from the highest rate tried at which the SLO holds *for sure*
(at the upper ends of all its statistics' 95% intervals, with no overload) to the lowest at which it breaks for sure.
While it is wider than asked for, the runs are made longer: two to four times as many requests, drawn or repeated by
:class:`penstock.workload.offered_load.OfferedLoad`, up to ``max_requests``; it has to be narrow at two lengths. What is
still missing then is said.

Rates are rounded to four digits; the same question has the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.errors import Problem, UserError
from penstock.explore.bottleneck import Bottleneck
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.replications import Replications, rounded
from penstock.explore.slo import Slo, shown_ns
from penstock.explore.steady_state import FullThroughput, SteadyState

_FIRST_STEP = 1.25
_LOWEST_SHARE = 1 / 1024
_ALONE_SHARE = 1 / 16
_HIGHEST_SHARE = 256
_ROUGHLY = 0.1
PER_CONCURRENT = 6
"""So many requests for each that a full system holds at once: half of them are left after warm-up and drain."""

_SURE_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOptions:
    """``tolerance`` is the width of the interval, relative to the capacity, at which runs are long enough.
    ``requests`` is how long they are at first, ``max_requests`` at most; ``seeds`` are replications;
    ``guess_per_s`` is where a search may begin. ``rough`` ends it after one replication's halving: a first look."""

    seeds: int = 5
    tolerance: float = 0.05
    requests: int = 1000
    max_requests: int = 8_000
    guess_per_s: float | None = None
    rough: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """``low_per_s`` to ``high_per_s`` is the interval, infinite where nothing breaks for sure. ``held`` and ``broke``
    are the pooled steady states next to the capacity; None without one: then no rate broke the SLO in runs of
    ``requests``, and ``unbounded`` says so. ``why_wide`` says why the interval is wider than was asked for.
    ``full`` is the throughput with a queue that never empties, None where it could not be seen."""

    rate_per_s: float
    low_per_s: float
    high_per_s: float
    goodput_per_s: float
    full: FullThroughput | None
    held: SteadyState | None
    broke: SteadyState | None
    requests: int
    trials: tuple[Trial, ...]
    why_wide: str | None = None
    bottleneck: Bottleneck | None = None

    @property
    def unbounded(self) -> bool:
        """No rate broke the SLO."""
        return self.broke is None

    @property
    def saturated_per_s(self) -> float | None:
        """Requests per second of a full system."""
        return self.full.requests_per_s.estimate if self.full is not None and self.full.sound else None

    @property
    def relative_width(self) -> float:
        """Of the interval."""
        return (self.high_per_s - self.low_per_s) / self.rate_per_s


class HopelessError(UserError):
    """The SLO holds at no rate; ``trials`` are what was tried."""

    def __init__(self, message: str, trials: Sequence[Trial]) -> None:
        super().__init__([Problem("--slo", message)])
        self.trials = tuple(trials)


class _HoldsAtAllRatesError(Exception):
    """Rates have gone up and up without breaking the SLO."""


def find_capacity(load_test: LoadTest, options: CapacityOptions, *, explain: bool = True) -> Capacity:
    """The capacity of a deployment under the SLO of its load test.

    Raises:
        HopelessError: the SLO holds at no rate, not even for requests that come one by one.
        UserError: the workload cannot be made long enough.
    """
    assert load_test.slo is not None, "a capacity needs an SLO"
    return _Search(load_test, options).run(explain=explain)


class _Search:
    """For one capacity, at the present length of runs."""

    def __init__(self, load_test: LoadTest, options: CapacityOptions) -> None:
        self._load_test = load_test
        self._options = options
        self._runs = Replications(load_test, options.requests, options.max_requests)
        self._full: FullThroughput | None = None

    def run(self, *, explain: bool) -> Capacity:
        """The whole search."""
        options = self._options
        throughput = self._fill()
        guess = options.guess_per_s or throughput / _FIRST_STEP
        try:
            low, high = self._bracket(guess, _FIRST_STEP, seeds=1)
            low, high = self._halve(low, high, _ROUGHLY, seeds=1)
            if options.rough:
                return self._answer(low, high, (low.rate_per_s, high.rate_per_s), explain=explain)
            return self._refine(math.sqrt(low.rate_per_s * high.rate_per_s), explain=explain)
        except _HoldsAtAllRatesError:
            return self._without_edge(throughput)

    def _fill(self) -> float:
        """Throughput of a full system in requests/s; sets the length of runs by what it holds at once."""
        options, runs = self._options, self._runs
        while True:
            self._full = runs.full()
            if self._full is None:
                raise HopelessError(f"{self._load_test.slo}: every request is rejected", runs.trials)
            if self._full.sound or runs.longest:
                break
            runs.lengthen(2 * runs.count)
        wanted = math.ceil(PER_CONCURRENT * self._full.running)
        if options.rough:
            wanted = wanted // 2
        runs.lengthen(max(options.requests, wanted))
        return self._full.requests_per_s.estimate

    # --- halving --------------------------------------------------------------------------------------------

    def _bracket(self, guess: float, step: float, seeds: int) -> tuple[SteadyState, SteadyState]:
        """A rate that holds and one above it that breaks; each step is the square of the one before."""
        guess = rounded(guess)
        before = self._runs.state(guess, seeds)
        rising = before.holds
        checked_alone = False
        rate = guess
        while True:
            rate = rounded(rate * step if rising else rate / step)
            if not rising and rate < guess * _ALONE_SHARE and not checked_alone:
                checked_alone = True
                alone = self._runs.state(rounded(guess * _LOWEST_SHARE), 1)
                if not alone.holds:
                    raise HopelessError(self._hopeless(alone), self._runs.trials)
            if not rising and rate < guess * _LOWEST_SHARE:
                raise HopelessError(self._hopeless(before), self._runs.trials)
            if rate > guess * _HIGHEST_SHARE:
                raise _HoldsAtAllRatesError
            found = self._runs.state(rate, seeds)
            if found.holds is not rising:
                return (before, found) if rising else (found, before)
            before = found
            step = min(step * step, 2.0)

    def _halve(
        self, low: SteadyState, high: SteadyState, resolution: float, seeds: int
    ) -> tuple[SteadyState, SteadyState]:
        while high.rate_per_s > low.rate_per_s * (1 + resolution):
            middle = rounded(math.sqrt(low.rate_per_s * high.rate_per_s))
            if not low.rate_per_s < middle < high.rate_per_s:
                break
            found = self._runs.state(middle, seeds)
            low, high = (found, high) if found.holds else (low, found)
        return low, high

    # --- the interval ---------------------------------------------------------------------------------------

    def _refine(self, around: float, *, explain: bool) -> Capacity:
        options = self._options
        step = options.tolerance / 4
        was_narrow = False
        while True:
            low, high = self._bracket(around, 1 + step, options.seeds)
            low, high = self._halve(low, high, step, options.seeds)
            sure = (self._sure_below(low, step), self._sure_above(high, step))
            around = math.sqrt(low.rate_per_s * high.rate_per_s)
            width = (sure[1] - sure[0]) / around
            narrow = width <= options.tolerance
            if self._runs.longest or (narrow and was_narrow):
                return self._answer(low, high, sure, explain=explain)
            # Near saturation short runs may be all transient, and agree: longer ones have to say the same.
            was_narrow = narrow
            self._runs.lengthen(self._runs.count * (2 if width < 2 * options.tolerance else 4))

    def _sure_below(self, low: SteadyState, step: float) -> float:
        """The highest rate up to ``low``, to the step, at which the SLO holds for sure; 0 if none is near."""
        return self._sure(low.rate_per_s, step, -1, lambda state: state.surely_holds) or 0.0

    def _sure_above(self, high: SteadyState, step: float) -> float:
        """The lowest rate from ``high``, to the step, at which it breaks for sure; infinite if none is near."""
        return self._sure(high.rate_per_s, step, 1, lambda state: state.surely_breaks) or math.inf

    def _sure(
        self, start: float, step: float, direction: int, sure: Callable[[SteadyState], bool]
    ) -> float | None:
        """Steps away that grow, then halving towards ``start``."""
        seeds = self._options.seeds
        unsure, rate = start, start
        for place in range(_SURE_STEPS):
            if sure(self._runs.state(rate, seeds)):
                break
            unsure = rate
            rate = rounded(rate * (1 + step * 1.6**place) ** direction)
        else:
            return None
        while max(rate, unsure) > min(rate, unsure) * (1 + 1.5 * step):
            middle = rounded(math.sqrt(rate * unsure))
            if sure(self._runs.state(middle, seeds)):
                rate = middle
            else:
                unsure = middle
        return rate

    def _answer(
        self, low: SteadyState, high: SteadyState, sure: tuple[float, float], *, explain: bool
    ) -> Capacity:
        rate = low.rate_per_s
        width = (sure[1] - sure[0]) / rate
        wide = not self._options.rough and width > self._options.tolerance
        return Capacity(
            rate_per_s=rate,
            low_per_s=sure[0],
            high_per_s=sure[1],
            goodput_per_s=rate * low.attained,
            full=self._full,
            held=low,
            broke=high,
            requests=self._runs.count,
            trials=tuple(self._runs.trials),
            why_wide=self._why_wide(low, high) if wide else None,
            bottleneck=self._load_test.explain(high.rate_per_s, 0, self._runs.count) if explain else None,
        )

    def _why_wide(self, low: SteadyState, high: SteadyState) -> str:
        runs = f"runs of {self._runs.count:,} requests, the most allowed,"
        if not all(run.settled for state in (low, high) for run in state.runs):
            return f"{runs} end before the queue has settled"
        if self._full is not None and self._runs.count < PER_CONCURRENT * self._full.running:
            return f"{runs} are few beside the {self._full.running:,.0f} that are served at once"
        return f"{runs} leave {len(low.runs)} replications this far apart"

    def _without_edge(self, throughput: float) -> Capacity:
        return Capacity(
            rate_per_s=throughput,
            low_per_s=throughput,
            high_per_s=math.inf,
            goodput_per_s=throughput,
            full=self._full,
            held=None,
            broke=None,
            requests=self._runs.count,
            trials=tuple(self._runs.trials),
            why_wide=f"runs of {self._runs.count:,} requests, the most allowed, are over before a queue has grown",
        )

    def _hopeless(self, alone: SteadyState) -> str:
        slo = self._load_test.slo
        assert slo is not None
        trial = self._runs.trials[-1]
        return f"cannot hold at any rate: at {alone.rate_per_s:g} requests/s {_broken(alone, slo)}" + (
            f" ({trial.rejected} of {trial.requests} requests are rejected and count as never)"
            if trial.rejected
            else ""
        )


def _broken(state: SteadyState, slo: Slo) -> str:
    return "; ".join(
        f"{bound.name} is {shown_ns(found.estimate)}, the limit {shown_ns(bound.limit_ns)}"
        for bound in slo.bounds
        if (found := state.bounds_ns.get(bound.name)) is not None and found.estimate > bound.limit_ns
    )


def latency_curve(load_test: LoadTest, capacity: Capacity, points: int = 12) -> list[Trial]:
    """Trials of seed 0 at ``points`` rates from a tenth of the capacity to half as much again."""
    rates = [capacity.rate_per_s * (0.1 + 1.4 * place / (points - 1)) for place in range(points)]
    return [load_test.try_rate(rounded(rate), 0, capacity.requests) for rate in rates]
