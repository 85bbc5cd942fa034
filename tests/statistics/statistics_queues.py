"""Single-server queues with known answers: waits by Lindley's recursion, and their means in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


def waits(gaps: FloatArray, services: FloatArray) -> FloatArray:
    """Waiting times in order of arrival, the queue empty at first: w' = max(0, w + service - gap)."""
    steps = np.concatenate([[0.0], np.cumsum(services[:-1] - gaps[1:])])
    return steps - np.minimum.accumulate(steps)


def lengths_at_arrivals(gaps: FloatArray, services: FloatArray) -> FloatArray:
    """Customers that an arriving one finds, shape (n,)."""
    arrivals = np.cumsum(gaps)
    leaving = np.sort(arrivals + waits(gaps, services) + services)
    return np.arange(len(gaps)) - np.searchsorted(leaving, arrivals, side="right").astype(np.float64)


def poisson(generator: np.random.Generator, rate: float, count: int) -> FloatArray:
    """Exponential gaps."""
    return generator.exponential(1 / rate, count)


@dataclass(frozen=True)
class Mmpp:
    """A Markov-modulated Poisson process of two states, the plainest MAP that is no renewal process."""

    rates: tuple[float, float]
    leaving: tuple[float, float]

    @property
    def mean_rate(self) -> float:
        a, b = self.leaving
        return (self.rates[0] * b + self.rates[1] * a) / (a + b)

    def gaps(self, generator: np.random.Generator, count: int) -> FloatArray:
        """From a state drawn from the stationary distribution at a random moment."""
        a, b = self.leaving
        state = int(generator.random() < a / (a + b))
        times: list[FloatArray] = []
        now, found = 0.0, 0
        while found < count:
            stay = generator.exponential(1 / self.leaving[state])
            number = generator.poisson(self.rates[state] * stay)
            times.append(now + np.sort(generator.random(number)) * stay)
            found += number
            now += stay
            state = 1 - state
        return np.diff(np.concatenate(times)[:count], prepend=0.0)

    def mean_wait(self, service_rate: float) -> float:
        """In MMPP/M/1, by the matrix-geometric solution (Neuts): mean length over the mean rate, less a service."""
        a, b = self.leaving
        up = np.diag(self.rates)
        local = np.array([[-a, a], [b, -b]]) - up - service_rate * np.eye(2)
        down = service_rate * np.eye(2)
        rate = np.zeros((2, 2))
        for _ in range(100_000):
            following = -(up + rate @ rate @ down) @ np.linalg.inv(local)
            if np.abs(following - rate).max() < 1e-14:
                break
            rate = following
        boundary = np.array([[-a, a], [b, -b]]) - up + rate @ down
        inverse = np.linalg.inv(np.eye(2) - rate)
        # pi_0 (B + R A2) = 0 with pi_0 (I - R)^-1 1 = 1
        system = np.vstack([boundary.T[:1], (inverse @ np.ones(2))[None, :]])
        empty = np.linalg.solve(system, np.array([0.0, 1.0]))
        length = empty @ rate @ inverse @ inverse @ np.ones(2)
        return float(length / self.mean_rate - 1 / service_rate)
