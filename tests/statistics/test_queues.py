"""Intervals against queues whose mean wait is known in closed form: at least 93 of 100 seeded replications hold it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from statistics_queues import FloatArray, Mmpp, lengths_at_arrivals, poisson, waits

from penstock.statistics.drift import drift, growth
from penstock.statistics.intervals import (
    batch_means_interval,
    equivalent,
    replication_interval,
    sectioned_interval,
    series_inflation,
    unbiased_lag_one,
    variance_degrees,
)
from penstock.statistics.warm_up import mser5

Draw = Callable[[np.random.Generator, int], tuple[FloatArray, FloatArray]]

LOAD = 0.7
CUSTOMERS = 20_000
SQUARED_CV = 2.0
SIGMA = math.sqrt(math.log(1 + SQUARED_CV))
BURSTS = Mmpp(rates=(1.2, 0.2), leaving=(0.02, 0.02))


def markov(generator: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
    return poisson(generator, LOAD, count), generator.exponential(1, count)


def fixed(generator: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
    return poisson(generator, LOAD, count), np.ones(count)


def general(generator: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
    return poisson(generator, LOAD, count), generator.lognormal(-SIGMA * SIGMA / 2, SIGMA, count)


def bursts(generator: np.random.Generator, count: int) -> tuple[FloatArray, FloatArray]:
    return BURSTS.gaps(generator, count), generator.exponential(1, count)


QUEUES: dict[str, tuple[Draw, float]] = {
    "M/M/1": (markov, LOAD / (1 - LOAD)),
    "M/D/1": (fixed, LOAD / (2 * (1 - LOAD))),
    "M/G/1": (general, LOAD * (1 + SQUARED_CV) / (2 * (1 - LOAD))),
    "MAP/M/1": (bursts, BURSTS.mean_wait(1.0)),
}


def simulated(draw: Draw, seed: int, count: int = CUSTOMERS) -> FloatArray:
    return waits(*draw(np.random.default_rng(seed), count))


@pytest.mark.parametrize("name", QUEUES)
def test_the_mean_wait_lies_within_93_of_100_intervals(name: str) -> None:
    draw, expected = QUEUES[name]
    held = 0
    for seed in range(100):
        series = simulated(draw, seed)
        held += expected in batch_means_interval(series[mser5(series).length :])
    assert held >= 93


@pytest.mark.parametrize("name", ["M/M/1", "M/D/1"])
def test_replications_give_intervals_too(name: str) -> None:
    draw, expected = QUEUES[name]
    held = 0
    for seed in range(100):
        means = [float(simulated(draw, 10 * seed + part)[1000:].mean()) for part in range(5)]
        held += expected in replication_interval(means)
    assert held >= 93


def test_percentiles_of_waits_lie_within_their_intervals() -> None:
    # In M/M/1 the wait is 0 with probability 1 - load, else exponential: P(wait > x) = load exp(-(1 - load) x).
    for percent in (90, 99):
        expected = math.log(LOAD / (1 - percent / 100)) / (1 - LOAD)
        held = 0
        for seed in range(100):
            runs = [simulated(markov, 10 * seed + part)[1000:] for part in range(4)]
            held += expected in sectioned_interval(runs, lambda v, p=percent: float(np.percentile(v, p)))
        assert held >= 93


@pytest.mark.parametrize("true", [0.0, 0.3, 0.6])
def test_the_correlation_of_a_short_series_is_not_too_low(true: float) -> None:
    found = []
    for seed in range(400):
        steps = np.random.default_rng(seed).normal(size=46)
        for place in range(1, len(steps)):
            steps[place] += true * steps[place - 1]
        found.append(unbiased_lag_one([steps[-16:]]))
    # Estimates below 0 count as 0, those above 0.8 as that: hence the room above and below.
    assert np.mean(found) == pytest.approx(true, abs=0.11)


def test_values_that_hang_together_count_for_fewer() -> None:
    assert equivalent(12, 0.0) == 12
    assert equivalent(12, 0.5) == pytest.approx(4)
    assert equivalent(12, 0.8) == 2


def test_the_variance_of_the_mean_of_a_short_series_is_that_of_its_correlations() -> None:
    assert series_inflation(0.7, 1) == 1
    assert series_inflation(0.7, 2) == pytest.approx(1.7)
    assert series_inflation(0.7, 100_000) == pytest.approx(1.7 / 0.3, rel=1e-3)
    assert variance_degrees(0.0, 5, 10) == 9
    assert variance_degrees(0.8, 2, 10) == pytest.approx(10 / 1.64 - 1)
    # By hand: means of three values of an autoregression, many times.
    steps = np.random.default_rng(0).normal(size=(3, 200_000))
    values = [steps[0] / math.sqrt(1 - 0.6**2)]
    values += [0.6 * values[0] + steps[1]]
    values += [0.6 * values[1] + steps[2]]
    found = np.mean(values, axis=0).var() / (values[0].var() / 3)
    assert series_inflation(0.6, 3) == pytest.approx(found, rel=0.02)


def test_two_runs_of_a_queue_that_settles_say_that_it_does_not_grow() -> None:
    # Their spread alone has one degree of freedom, and says nothing.
    narrow = 0
    for seed in range(20):
        runs = []
        for part in range(2):
            generator = np.random.default_rng(1000 * seed + part)
            gaps, services = poisson(generator, 0.5, 4000), generator.exponential(1, 4000)
            runs.append(growth(lengths_at_arrivals(gaps, services), float(gaps.sum())))
        found = drift(runs)
        assert not found.overloaded
        assert found.growth.low <= found.growth.estimate <= found.growth.high
        narrow += found.growth.high < 0.03 * 0.5
    assert narrow >= 18


def test_the_mmpp_answer_reduces_to_the_plain_one() -> None:
    plain = Mmpp(rates=(LOAD, LOAD), leaving=(0.3, 0.1))
    assert plain.mean_wait(1.0) == pytest.approx(LOAD / (1 - LOAD))
    assert BURSTS.mean_rate == pytest.approx(LOAD)
    assert BURSTS.mean_wait(1.0) > 5 * LOAD / (1 - LOAD)


def queue_growth(load: float, seed: int, count: int = 4000) -> tuple[bool, float]:
    """Whether five replications of M/M/1 are called overloaded, and the growth found."""
    runs = []
    for part in range(5):
        generator = np.random.default_rng(100 * seed + part)
        gaps, services = poisson(generator, load, count), generator.exponential(1, count)
        lengths = lengths_at_arrivals(gaps, services)
        cut = mser5(lengths).length
        runs.append(growth(lengths[cut:], float(gaps[cut:].sum())))
    found = drift(runs)
    return found.overloaded, found.growth.estimate


@pytest.mark.parametrize(
    ("load", "least", "most"), [(0.5, 0, 1), (0.8, 0, 1), (0.9, 0, 1), (1.1, 17, 20), (1.3, 20, 20)]
)
def test_overload_is_told_from_a_queue_that_settles(load: float, least: int, most: int) -> None:
    assert least <= sum(queue_growth(load, seed)[0] for seed in range(20)) <= most


def test_an_overloaded_queue_grows_by_what_is_not_served() -> None:
    assert queue_growth(1.3, 0)[1] == pytest.approx(0.3, abs=0.05)


def test_a_queue_on_its_way_to_a_high_level_is_not_overloaded() -> None:
    # Servers without end, each taking 500 s: it fills for long, by less and less, and stays at 500.
    generator = np.random.default_rng(1)
    runs = []
    for _ in range(5):
        gaps = poisson(generator, 1.0, 3000)
        arrivals = np.cumsum(gaps)
        leaving = np.sort(arrivals + generator.exponential(500, 3000))
        lengths = np.arange(3000) - np.searchsorted(leaving, arrivals).astype(np.float64)
        runs.append(growth(lengths, float(arrivals[-1])))
    assert drift(runs).growth.low > 0
    assert not drift(runs).overloaded
