"""The highest request rate at which an SLO holds.

**Search.** All requests at once is the limit of all rates: where that holds, no rate can break the SLO. It also
gives the throughput of a full system, from which the search for a rate that holds and one that does not
begins; the interval between is then halved, on a logarithmic scale, down to the tolerance. Percentiles of few
requests jump, so an SLO can break, hold and break again as the rate rises: a few rates below the edge are tried as
well, and where one breaks the search goes on below it. Each seed is a realisation of its own whose edge is found
separately, from the edge of the one before. Rates are rounded to four digits, and none is run twice for a seed.

**Confidence.** A seed's edge lies between the lowest rate that broke and the highest below it, which held. The
capacity is the mean over seeds of the latter; its 95% interval runs from that mean less t x standard error to the
mean of the former plus t x standard error (Student's t, seeds - 1 degrees of freedom). With one seed it is the
edge's own interval, and says nothing about other realisations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock.errors import Problem, UserError
from penstock.explore.bottleneck import Bottleneck
from penstock.explore.load_test import LoadTest, Trial
from penstock.explore.slo import Slo, shown_ns

_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_T_95_MANY = ((15, 2.131), (20, 2.086), (30, 2.042), (60, 2.0))
_FIRST_STEP = 1.5
_LOWEST_SHARE = 1 / 1024
_ALONE_SHARE = 1 / 16
_HIGHEST_SHARE = 4096

LOOK_BELOW = (0.96, 0.92, 0.88, 0.84)
"""Shares of an edge that are tried to see whether the SLO breaks below it as well."""

Try = Callable[[float, int], Trial]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOptions:
    """``tolerance`` is the width of an edge relative to it; ``guess_per_s`` where a search may begin.
    ``look_below`` tries the rates of ``LOOK_BELOW`` under each edge."""

    seeds: int = 5
    tolerance: float = 0.02
    look_below: bool = True
    guess_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """Of one seed: the highest rate tried that held, the lowest above it that did not."""

    held: Trial
    broke: Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """``edges`` has one entry per seed. Where it is empty the SLO holds at every rate, with all requests at once
    even, and ``rate_per_s`` is the throughput then: a longer workload is needed to find an edge.
    ``saturated_per_s`` is that throughput in any case, and no rate above it can last: a capacity above it says that
    the workload is over before its queues have grown."""

    rate_per_s: float
    low_per_s: float
    high_per_s: float
    goodput_per_s: float
    saturated_per_s: float
    edges: tuple[Edge, ...]
    trials: tuple[Trial, ...]
    bottleneck: Bottleneck | None = None

    @property
    def every_seed_per_s(self) -> float:
        """The SLO held for every seed up to this rate."""
        rates = [edge.held.rate_per_s or 0.0 for edge in self.edges]
        return min(rates, default=self.rate_per_s)


class HopelessError(UserError):
    """The SLO holds at no rate; ``trials`` are what was tried."""

    def __init__(self, message: str, trials: Sequence[Trial]) -> None:
        super().__init__([Problem("--slo", message)])
        self.trials = tuple(trials)


class _HoldsAtAllRatesError(Exception):
    """Of one seed: rates have gone up and up without breaking the SLO."""


@dataclass(slots=True)
class _Tried:
    """Trials of one seed, each rate once."""

    attempt: Try
    seed: int
    by_rate: dict[float, Trial] = field(default_factory=dict[float, Trial])

    def __call__(self, rate_per_s: float) -> Trial:
        if rate_per_s not in self.by_rate:
            self.by_rate[rate_per_s] = self.attempt(rate_per_s, self.seed)
        return self.by_rate[rate_per_s]


def find_capacity(load_test: LoadTest, options: CapacityOptions, *, explain: bool = True) -> Capacity:
    """The capacity of a load_test under its SLO.

    Raises:
        HopelessError: the SLO holds at no rate, not even for requests that come one by one.
    """
    assert load_test.slo is not None, "a capacity needs an SLO"
    trials: list[Trial] = []

    def attempt(rate_per_s: float, seed: int) -> Trial:
        trial = load_test.try_rate(rate_per_s, seed)
        trials.append(trial)
        return trial

    at_once = attempt(math.inf, 0)
    if at_once.holds:
        return _without_edge(at_once, trials)
    if not at_once.requests_per_s:
        raise HopelessError(f"{load_test.slo}: every request is rejected", trials)
    guess = options.guess_per_s or at_once.requests_per_s / _FIRST_STEP
    step = _FIRST_STEP
    edges: list[Edge] = []
    for seed in range(options.seeds):
        try:
            edge = _find_edge(_Tried(attempt, seed), guess, step, options, load_test.slo)
        except _HoldsAtAllRatesError:
            continue
        edges.append(edge)
        guess = _rate(edge.held)
        step = 1 + 2 * options.tolerance
    if not edges:
        return _without_edge(at_once, trials)
    bottleneck = load_test.explain(edges[0].broke.rate_per_s, 0) if explain else None
    return _capacity(edges, trials, at_once.requests_per_s, bottleneck)


def _without_edge(at_once: Trial, trials: Sequence[Trial]) -> Capacity:
    rate = at_once.requests_per_s
    return Capacity(
        rate_per_s=rate,
        low_per_s=rate,
        high_per_s=math.inf,
        goodput_per_s=rate * at_once.attained,
        saturated_per_s=rate,
        edges=(),
        trials=tuple(trials),
    )


def _find_edge(tried: _Tried, guess: float, step: float, options: CapacityOptions, slo: Slo) -> Edge:
    """The highest rate that held below every rate that broke, of those tried."""
    _bracket(tried, _rounded(guess), step, slo)
    while True:
        trials = sorted(tried.by_rate.values(), key=_rate)
        broke = next(trial for trial in trials if not trial.holds)
        below = [trial for trial in trials if _rate(trial) < _rate(broke)]
        if not below:
            _bracket(tried, _rate(broke), step, slo)
            continue
        low, high = _rate(below[-1]), _rate(broke)
        middle = _rounded(math.sqrt(low * high))
        if high > low * (1 + options.tolerance) and low < middle < high:
            tried(middle)
            continue
        shares = LOOK_BELOW if options.look_below else ()
        unseen = [rate for share in shares if (rate := _rounded(low * share)) not in tried.by_rate]
        if not unseen:
            return Edge(below[-1], broke)
        tried(unseen[0])


def _bracket(tried: _Tried, guess: float, step: float, slo: Slo) -> None:
    """Try rates until one held and one above it broke; each step is the square of the one before."""
    trial = tried(guess)
    rising = trial.holds
    checked_alone = False
    rate = guess
    while True:
        before = trial
        rate = _rounded(rate * step if rising else rate / step)
        if not rising and rate < guess * _ALONE_SHARE and not checked_alone:
            checked_alone = True
            alone = tried(_rounded(guess * _LOWEST_SHARE))
            if not alone.holds:
                raise HopelessError(_hopeless(alone, slo), tuple(tried.by_rate.values()))
        if not rising and rate < guess * _LOWEST_SHARE:
            raise HopelessError(_hopeless(before, slo), tuple(tried.by_rate.values()))
        if rate > guess * _HIGHEST_SHARE:
            raise _HoldsAtAllRatesError
        trial = tried(rate)
        if trial.holds is not rising:
            return
        step = min(step * step, 2.0)


def _hopeless(trial: Trial, slo: Slo) -> str:
    broken = [
        f"{bound.name} is {shown_ns(value) if value is not None else 'never'}, the limit {shown_ns(bound.limit_ns)}"
        for bound, value in ((bound, trial.statistics_ns[bound.name]) for bound in slo.bounds)
        if value is None or value > bound.limit_ns
    ]
    text = f"cannot hold at any rate: at {trial.rate_per_s:g} requests/s {'; '.join(broken)}"
    if trial.rejected:
        text += f" ({trial.rejected} of {trial.requests} requests are rejected and count as never)"
    return text


def _capacity(
    edges: Sequence[Edge], trials: Sequence[Trial], saturated_per_s: float, bottleneck: Bottleneck | None
) -> Capacity:
    held = [edge.held.rate_per_s or 0.0 for edge in edges]
    broke = [edge.broke.rate_per_s or 0.0 for edge in edges]
    mean = sum(held) / len(held)
    spread = 0.0
    if len(held) > 1:
        deviation = math.sqrt(sum((rate - mean) ** 2 for rate in held) / (len(held) - 1))
        spread = student_t_95(len(held) - 1) * deviation / math.sqrt(len(held))
    good = [(edge.held.rate_per_s or 0.0) * edge.held.attained for edge in edges]
    return Capacity(
        rate_per_s=mean,
        low_per_s=max(mean - spread, 0.0),
        high_per_s=sum(broke) / len(broke) + spread,
        goodput_per_s=sum(good) / len(good),
        saturated_per_s=saturated_per_s,
        edges=tuple(edges),
        trials=tuple(trials),
        bottleneck=bottleneck,
    )


def latency_curve(load_test: LoadTest, capacity: Capacity, points: int = 12) -> list[Trial]:
    """Trials of seed 0 at ``points`` rates from a tenth of the capacity to half as much again."""
    rates = [capacity.rate_per_s * (0.1 + 1.4 * place / (points - 1)) for place in range(points)]
    return [load_test.try_rate(_rounded(rate), 0) for rate in rates]


def student_t_95(degrees: int) -> float:
    """The two-sided 95% quantile; from above where the table has gaps."""
    if degrees <= len(_T_95):
        return _T_95[degrees - 1]
    return next((t for known, t in reversed(_T_95_MANY) if degrees >= known), _T_95[-1])


def _rate(trial: Trial) -> float:
    return math.inf if trial.rate_per_s is None else trial.rate_per_s


def _rounded(rate_per_s: float) -> float:
    """Four digits: the rate that is printed is the rate that was run."""
    return float(f"{rate_per_s:.4g}")
