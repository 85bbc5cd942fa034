"""Distributions of token counts: fixed, uniform, lognormal, zipf, written ``kind:parameter,...``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penstock.errors import Problem, UserError, nearest
from penstock.units import Int64Array

DEFAULT_CV = 1.0
DEFAULT_THETA = 0.4
MAX_LENGTH = 10_000_000

_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "fixed": ("tokens",),
    "uniform": ("low", "high"),
    "lognormal": ("mean", "cv"),
    "zipf": ("low", "high", "theta", "mean"),
}
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "fixed": ("tokens",),
    "uniform": ("low", "high"),
    "lognormal": ("mean",),
    "zipf": ("low", "high"),
}


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution over whole token counts >= 1.

    ``lognormal`` has the given mean and coefficient of variation (before rounding); ``zipf`` gives k in
    [low, high] the weight k**-theta (SARATHI's workloads have theta 0.4 over 1K to 4K), and where a mean
    is asked for instead, the theta that has it.
    """

    kind: str
    parameters: Mapping[str, float]

    def sample(self, generator: np.random.Generator, count: int) -> Int64Array:
        """``count`` independent draws, shape (count,)."""
        p = self.parameters
        match self.kind:
            case "fixed":
                return np.full(count, int(p["tokens"]), dtype=np.int64)
            case "uniform":
                return generator.integers(int(p["low"]), int(p["high"]), size=count, endpoint=True)
            case "lognormal":
                variance = math.log1p(p.get("cv", DEFAULT_CV) ** 2)
                drawn = generator.lognormal(math.log(p["mean"]) - variance / 2, math.sqrt(variance), count)
                return np.clip(np.rint(drawn), 1, MAX_LENGTH).astype(np.int64)
            case _:
                return self._sample_zipf(generator, count)

    def _sample_zipf(self, generator: np.random.Generator, count: int) -> Int64Array:
        values = np.arange(int(self.parameters["low"]), int(self.parameters["high"]) + 1)
        mean = self.parameters.get("mean")
        theta = self.parameters.get("theta", DEFAULT_THETA) if mean is None else _theta_for(values, mean)
        cumulated = np.cumsum(_zipf_weights(values, theta))
        return values[np.searchsorted(cumulated, generator.random(count) * cumulated[-1], side="right")]


def parse_lengths(text: str, option: str) -> Lengths:
    """``lognormal:860,0.62`` or ``lognormal:mean=860,cv=0.62``: parameters by place or by name.

    Raises:
        UserError: naming ``option`` and what is wrong.
    """
    kind, _, rest = text.partition(":")
    if kind not in _PARAMETERS:
        raise _error(option, f"unknown kind '{kind}'{nearest(kind, _PARAMETERS)} ({', '.join(_PARAMETERS)})")
    parameters: dict[str, float] = {}
    names = _PARAMETERS[kind]
    for place, part in enumerate(rest.split(",") if rest else []):
        name, equals, value = part.partition("=")
        if not equals:
            if place >= len(names):
                raise _error(option, f"{kind} takes at most {len(names)} parameters: {', '.join(names)}")
            name, value = names[place], part
        if name not in names:
            raise _error(option, f"{kind} has no parameter '{name}'{nearest(name, names)}")
        parameters[name] = _number(option, name, value)
    absent = [name for name in _REQUIRED[kind] if name not in parameters]
    if absent:
        raise _error(option, f"{kind} needs {', '.join(absent)}, as in '{kind}:{','.join(_REQUIRED[kind])}'")
    _check(option, kind, parameters)
    return Lengths(kind, parameters)


def _number(option: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _error(option, f"{name} must be a number, got '{text}'") from None
    if not math.isfinite(value):
        raise _error(option, f"{name} must be finite, got '{text}'")
    return value


def _check(option: str, kind: str, parameters: Mapping[str, float]) -> None:
    for name in ("tokens", "low", "high"):
        value = parameters.get(name, 1)
        if value != int(value) or not 1 <= value <= MAX_LENGTH:
            raise _error(option, f"{name} must be a whole number from 1 to {MAX_LENGTH}, got {value:g}")
    low, high = parameters.get("low", 1), parameters.get("high", MAX_LENGTH)
    if low > high:
        raise _error(option, f"low {low:g} is above high {high:g}")
    mean = parameters.get("mean")
    if mean is not None and not 1 <= mean <= MAX_LENGTH:
        raise _error(option, f"mean must be from 1 to {MAX_LENGTH}, got {mean:g}")
    if not 0 <= parameters.get("cv", 0) <= 1000:
        raise _error(option, f"cv must be from 0 to 1000, got {parameters['cv']:g}")
    if not -100 <= parameters.get("theta", 0) <= 100:
        raise _error(option, f"theta must be from -100 to 100, got {parameters['theta']:g}")
    if kind == "zipf" and mean is not None:
        if "theta" in parameters:
            raise _error(option, "zipf takes theta or mean, not both")
        if not low < mean < high:
            raise _error(option, f"mean {mean:g} must lie between low {low:g} and high {high:g}")


def _error(option: str, message: str) -> UserError:
    return UserError([Problem(option, message)])


def _zipf_weights(values: Int64Array, theta: float) -> npt.NDArray[np.float64]:
    return np.exp(-theta * (np.log(values) - math.log(values[0] if theta > 0 else values[-1])))


def _theta_for(values: Int64Array, mean: float) -> float:
    """Bisection: the mean falls as theta rises."""
    low, high = -200.0, 200.0
    for _ in range(80):
        middle = (low + high) / 2
        weights = _zipf_weights(values, middle)
        if float(values @ weights) / float(weights.sum()) > mean:
            low = middle
        else:
            high = middle
    return (low + high) / 2
