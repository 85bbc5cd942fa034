"""Pairs of a token and an expert, and distinct experts, on every rank, by how popular experts are and where they stand.

Expectations over random routing: each of T tokens picks expert e with probability q_e, independently of the others.
A rank that holds c of n copies of e then computes T q_e c / n pairs of it, and needs its weights with probability
1 - (1 - q_e c / n)^T.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from penstock.cost.tables import FloatArray
from penstock.cost.weights import Shard
from penstock.spec.experts import ExpertOptions
from penstock.spec.layers import MoeMlp

_POWER_LAW = re.compile(r"power_law\(([0-9.]+)\)")
_SEED = 20


def pick_probabilities(moe: MoeMlp, popularity: str | tuple[float, ...]) -> FloatArray:
    """Probability that a token picks each expert, shape (experts,); they sum to ``experts_per_token``.

    No expert is picked twice by a token: what a share beyond one pick per token would be goes to the others.
    """
    experts = moe.num_experts
    if isinstance(popularity, tuple):
        share = np.array(popularity, dtype=np.float64)
    else:
        law = _POWER_LAW.fullmatch(popularity)
        exponent = float(law.group(1)) if law else 0.0
        share = np.arange(1, experts + 1, dtype=np.float64) ** -exponent
        order = list(range(experts))
        random.Random(_SEED).shuffle(order)
        share = share[order]
    picks = np.zeros(experts)
    certain = np.zeros(experts, dtype=bool)
    for _ in range(experts):
        rest = moe.experts_per_token - certain.sum()
        total = share[~certain].sum()
        picks = np.where(certain, 1.0, rest * share / total if total else 0.0)
        over = ~certain & (picks > 1.0)
        if not over.any():
            break
        certain |= over
    return picks


@dataclass(frozen=True, slots=True)
class Routing:
    """``load[r]``: pairs per token on rank r, an array (experts of the rank,) of probabilities."""

    loads: tuple[FloatArray, ...]

    def pairs(self, tokens: FloatArray) -> FloatArray:
        """Pairs on every rank for each of ``tokens``, shape (ranks, tokens), the slowest rank's luck included."""
        mean = np.array([load.sum() for load in self.loads])[:, None] * tokens
        variance = np.array([(load * (1.0 - load)).sum() for load in self.loads])[:, None] * tokens
        most = np.array([len(load) for load in self.loads])[:, None] * tokens
        return np.minimum(mean + self._luck * np.sqrt(variance), most)

    def experts(self, tokens: FloatArray) -> FloatArray:
        """Distinct experts that a rank computes, shape (ranks, tokens), luck included."""
        rows: list[FloatArray] = []
        for load in self.loads:
            hit = 1.0 - (1.0 - load[:, None]) ** tokens
            spread = np.sqrt((hit * (1.0 - hit)).sum(axis=0))
            rows.append(np.minimum(hit.sum(axis=0) + self._luck * spread, len(load)))
        return np.array(rows)

    @property
    def _luck(self) -> float:
        """How many standard deviations the largest of so many like ranks lies above their mean, expected (Blom's
        approximation of normal order statistics)."""
        ranks = len(self.loads)
        return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0

    @property
    def imbalance(self) -> float:
        """Largest over mean load of a rank, without luck."""
        sums = [float(load.sum()) for load in self.loads]
        return max(sums) / (sum(sums) / len(sums))


def route(moe: MoeMlp, shard: Shard, options: ExpertOptions) -> Routing:
    """Where the pairs of a layer go. Without expert parallelism every rank has its part of every expert."""
    picks = pick_probabilities(moe, options.popularity)
    ranks = shard.ep_size
    if ranks == 1:
        return Routing((picks,))
    if options.load_balancing:
        return Routing(_balanced(picks, shard))
    if options.placement == "round_robin":
        return Routing(tuple(picks[rank::ranks] for rank in range(ranks)))
    return Routing(tuple(np.array_split(picks, ranks)))


def _balanced(picks: FloatArray, shard: Shard) -> tuple[FloatArray, ...]:
    """vLLM's EPLB (``distributed/eplb/policy/default.py``) on one node: each spare copy goes to the expert with the
    largest load per copy; then copies, heaviest first, go to the rank with the least load that has a slot left."""
    experts, ranks = len(picks), shard.ep_size
    slots = -(-(experts + shard.redundant_experts) // ranks)
    copies = np.ones(experts, dtype=np.int64)
    for _ in range(slots * ranks - experts):
        copies[int(np.argmax(picks / copies))] += 1
    physical = sorted(
        (float(picks[e] / copies[e]) for e in range(experts) for _ in range(copies[e])), reverse=True
    )
    loads: list[list[float]] = [[] for _ in range(ranks)]
    sums = [0.0] * ranks
    for load in physical:
        rank = min((one for one in range(ranks) if len(loads[one]) < slots), key=lambda one: sums[one])
        loads[rank].append(load)
        sums[rank] += load
    return tuple(np.array(load) for load in loads)
