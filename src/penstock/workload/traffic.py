"""When requests come, beyond one rate: bursts of a Markov-modulated process, and rates that change over the day."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.errors import Problem, UserError, nearest

FloatArray = npt.NDArray[np.float64]

DAY_S = 86_400.0
_MORNING = (0.35, 0.25, 0.2, 0.18, 0.2, 0.3, 0.5, 0.8, 1.2, 1.6, 1.8, 1.8)
_EVENING = (1.6, 1.7, 1.8, 1.8, 1.7, 1.5, 1.3, 1.2, 1.1, 0.9, 0.7, 0.5)
OFFICE_DAY = (*_MORNING, *_EVENING)
"""Rates by hour of a service used at work, relative to one another: a made-up shape, for want of a measured one."""

CURVES: Mapping[str, str] = {
    "day": "day[:SECONDS]: an office day of 24 hours, played in so many seconds [86400], again and again",
    "ramp": "ramp:FROM,TO: from FROM to TO times the rate, in a straight line over the whole workload",
    "points": "points:T,F;T,F;...: F times the rate at T seconds, straight lines between, again and again",
}


@dataclass(frozen=True, slots=True)
class RateCurve:
    """The rate over time, relative to the mean rate: ``factors`` at ``seconds``, straight lines between. It comes
    again after the last point, or is stretched over the whole workload (``stretched``, seconds from 0 to 1)."""

    seconds: tuple[float, ...]
    factors: tuple[float, ...]
    stretched: bool = False

    def warp(self, times_s: FloatArray) -> FloatArray:
        """Times of a process at a steady rate to those at this one: an arrival comes when as many have been due.

        The time change of an inhomogeneous process (Cinlar 1975): with L(t) the integral of the relative rate, an
        arrival at s moves to the t with L(t) = s. The mean rate over whole rounds is kept.
        """
        if not len(times_s):
            return times_s
        knots = np.array(self.seconds, dtype=np.float64)
        factors = np.array(self.factors, dtype=np.float64)
        if self.stretched:
            knots = knots * float(times_s[-1])
        fine = np.unique(np.concatenate([knots, np.linspace(knots[0], knots[-1], 20_001)]))
        rate = np.interp(fine, knots, factors)
        due = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(fine))])
        length = float(fine[-1] - fine[0])
        due *= length / due[-1]  # a round takes as long as so many arrivals at the mean rate
        rounds, rest = np.divmod(times_s, length)
        return rounds * length + np.interp(rest, due, fine - fine[0])


def parse_curve(text: str, where: str = "--rate-curve") -> RateCurve:
    """Read one of ``CURVES``.

    Raises:
        UserError: it is none of them, or has figures that make no sense.
    """
    kind, _, rest = text.partition(":")
    if kind not in CURVES:
        raise UserError(
            [Problem(where, f"unknown kind '{kind}'{nearest(kind, CURVES)} ({', '.join(CURVES)})")]
        )
    try:
        if kind == "day":
            day = float(rest) if rest else DAY_S
            curve = RateCurve(tuple(day * hour / 24 for hour in range(25)), (*OFFICE_DAY, OFFICE_DAY[0]))
        elif kind == "ramp":
            begin, end = (float(part) for part in rest.split(","))
            curve = RateCurve((0.0, 1.0), (begin, end), stretched=True)
        else:
            pairs = [tuple(float(number) for number in part.split(",")) for part in rest.split(";")]
            curve = RateCurve(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))
            if any(len(pair) != 2 for pair in pairs):
                raise ValueError
    except (ValueError, IndexError):
        raise UserError([Problem(where, f"'{text}' cannot be read: {CURVES[kind]}")]) from None
    rising = all(after > before for before, after in zip(curve.seconds, curve.seconds[1:], strict=False))
    sound = min(curve.factors) >= 0 and max(curve.factors) > 0 and curve.seconds[0] == 0 and rising
    if len(curve.seconds) < 2 or not sound or not np.isfinite([*curve.seconds, *curve.factors]).all():
        message = f"'{text}': times must rise from 0, factors be 0 or more and not all 0"
        raise UserError([Problem(where, message)])
    return curve


@dataclass(frozen=True, slots=True)
class Bursts:
    """A Markov-modulated Poisson process of two states: bursts of ``factor`` times the mean rate take ``share`` of the
    time and last ``mean_s`` seconds on average; what is left of the mean rate comes in between."""

    factor: float = 4.0
    share: float = 0.1
    mean_s: float = 30.0

    def times_s(self, generator: np.random.Generator, rate_per_s: float, count: int) -> FloatArray:
        """``count`` arrivals, rising, from a random moment of the stationary process."""
        rates = (rate_per_s * self.factor, rate_per_s * (1 - self.factor * self.share) / (1 - self.share))
        stays = (self.mean_s, self.mean_s * (1 - self.share) / self.share)
        state = 0 if generator.random() < self.share else 1
        parts: list[FloatArray] = []
        now, found = 0.0, 0
        while found < count:
            stay = generator.exponential(stays[state])
            number = int(generator.poisson(rates[state] * stay))
            parts.append(now + np.sort(generator.random(number)) * stay)
            found += number
            now += stay
            state = 1 - state
        return np.concatenate(parts)[:count]


def parse_bursts(text: str, where: str = "--bursts") -> Bursts:
    """Read ``FACTOR,SHARE,SECONDS``; what is left out has its default.

    Raises:
        UserError: figures that make no sense.
    """
    defaults = Bursts()
    try:
        given = [float(part) for part in text.split(",")] if text else []
        bursts = Bursts(*(*given, *(defaults.factor, defaults.share, defaults.mean_s)[len(given) :]))
    except (ValueError, TypeError):
        raise UserError([Problem(where, f"'{text}' is not FACTOR,SHARE,SECONDS: 4,0.1,30")]) from None
    if not (1 < bursts.factor <= 1e6 and 0 < bursts.share < 1 and 1e-3 <= bursts.mean_s <= 1e6):
        raise UserError([Problem(where, f"'{text}': FACTOR above 1, SHARE between 0 and 1, SECONDS above 0")])
    if bursts.factor * bursts.share > 1:
        message = f"'{text}': bursts would bring more than all requests: FACTOR x SHARE must be at most 1"
        raise UserError([Problem(where, message)])
    return bursts


PLAIN_BURSTS = Bursts()
"""A tenth of the time four times the rate, half a minute at a time."""
