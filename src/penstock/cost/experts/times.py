"""How long the experts of one rank take, by the pairs and the distinct experts it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from penstock.cost.efficiency import LAUNCH_US, Efficiency, Rates
from penstock.cost.tables import FloatArray, interpolate

TILE_ROWS = 16
"""Rows that a grouped matrix multiplication computes at least per expert, the smallest tile of vLLM's kernels."""

_KERNELS = 4
"""Launches around the two multiplications: sorting of pairs, activation, weighted sum."""


class ExpertTimes(Protocol):
    """Time of one rank's routed experts in one layer."""

    def rank_us(self, pairs: FloatArray, experts: FloatArray) -> FloatArray:
        """Microseconds for ``pairs`` pairs of a token and a local expert, over ``experts`` distinct ones; arrays of one
        shape, the same shape back."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertShape:
    """One expert as a rank holds it: ``hidden`` wide inputs and outputs, ``width`` columns of it on this rank."""

    hidden: int
    width: int
    weight_bytes: float
    activation_bytes: int

    def roofline_us(
        self, pairs: FloatArray, experts: FloatArray, rates: Rates
    ) -> tuple[FloatArray, FloatArray]:
        """(multiplications, bytes) in microseconds at the chip's peak rates."""
        rows = np.maximum(pairs, experts * TILE_ROWS)
        compute = 6.0 * rows * self.hidden * self.width / rates.flops_per_us
        moved = experts * 3.0 * self.hidden * self.width * self.weight_bytes
        moved = moved + pairs * (2.0 * self.hidden + 3.0 * self.width) * self.activation_bytes
        return compute, moved / rates.bytes_per_us


@dataclass(frozen=True, slots=True)
class RooflineExperts:
    """From a data sheet, held to what measured matrix multiplications reach of theirs."""

    shape: ExpertShape
    rates: Rates
    efficiency: Efficiency

    def rank_us(self, pairs: FloatArray, experts: FloatArray) -> FloatArray:
        """See :class:`ExpertTimes`."""
        compute, memory = self.shape.roofline_us(pairs, experts, self.rates)
        roof = np.maximum(compute, memory) + LAUNCH_US
        terms = {"balance": np.log2(np.maximum(compute / memory, 1e-9)), "size": np.log2(roof)}
        return roof * self.efficiency.factor("gemm", terms) + _KERNELS * LAUNCH_US


@dataclass(frozen=True, slots=True)
class GridExperts:
    """From LLMServingSim's ``moe.csv``: ``us[a, t]`` microseconds of ``experts[a]`` activated experts and
    ``tokens[t]`` tokens, all of whose ``experts_per_token`` experts are on the rank; router included. ``share``
    scales what is above a launch, for experts split over ranks.

    A rank that computes P pairs of its own is looked up at P / ``experts_per_token`` tokens. Fewer experts than the
    first row take their share of it.
    """

    experts: FloatArray
    tokens: FloatArray
    us: FloatArray
    experts_per_token: int
    share: float = 1.0

    def rank_us(self, pairs: FloatArray, experts: FloatArray) -> FloatArray:
        """See :class:`ExpertTimes`; linear in tokens and experts, above the table as its last two points go on."""
        tokens = np.asarray(pairs, dtype=np.float64).ravel() / self.experts_per_token
        wanted = np.asarray(experts, dtype=np.float64).ravel()
        rows = interpolate(tokens, self.tokens, self.us.T)  # (n, experts)
        low = np.clip(
            np.searchsorted(self.experts, wanted, side="right") - 1, 0, max(len(self.experts) - 2, 0)
        )
        every = np.arange(len(wanted))
        if len(self.experts) > 1:
            gap = self.experts[low + 1] - self.experts[low]
            weight = (wanted - self.experts[low]) / gap
            times = rows[every, low] * (1 - weight) + rows[every, low + 1] * weight
        else:
            times = rows[:, 0]
        launch = LAUNCH_US * _KERNELS
        first = launch + (rows[:, 0] - launch) * np.minimum(wanted / self.experts[0], 1.0)
        times = np.where(wanted < self.experts[0], first, times)
        scaled = launch + (times - launch) * self.share
        return np.maximum(scaled, launch).reshape(np.shape(pairs))
