"""The ways to cut a replica on one kind of GPU: what rules them out unsimulated, and in which order to look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.engine.build import BuiltInstance, build_instances
from penstock.explore.bounds import Bounds, bounds_of, why_impossible
from penstock.explore.design_point import DesignPoint, Site, cluster_config
from penstock.explore.estimate import MeanStep, Replica, Traffic, round_limit_ns
from penstock.explore.slo import Slo
from penstock.explore.space import Feasibility
from penstock.spec.hardware import find_hardware
from penstock.spec.load import load_cluster
from penstock.workload.workload import Workload

TP = (1, 2, 4, 8)
PP = (1, 2, 4, 8, 16)
DP = (1, 2, 4, 8, 16)
"""Of mixtures of experts; dense models have replicas instead."""

MAX_NUM_SEQS = (64, 128, 256, 512, 1024)
MAX_NUM_BATCHED_TOKENS = (1024, 2048, 4096, 8192)
OPTIONS = tuple((seqs, tokens) for seqs in MAX_NUM_SEQS for tokens in MAX_NUM_BATCHED_TOKENS)

PERCENTILE_ROOM = 1.1
"""A mean step may take the limit over this: percentiles lie above means."""

PREFILL_ROOM = 1.4
"""Replicas that only compute prompts are filled up to the inverse of this: prompts come by chance, and queue."""

LOAD_ROOM = 1.05
"""Nothing that is filled to the brim by the estimate of its mean is tried first: load comes by chance."""

BELIEVED = 1.15
"""How far an estimate is trusted: nothing is set aside for being worse by less."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One replica, cut, with the options with which it takes most by the estimate: ``point`` has one of each pool.
    ``capacity_per_s`` is of its serving replica, ``prefill_per_s`` of a replica that computes prompts for others."""

    point: DesignPoint
    replica: Replica
    capacity_per_s: float
    round_ns: float
    prefill_per_s: float = math.inf

    def replicas(self, rate_per_s: float, trust: float = 1 / LOAD_ROOM) -> DesignPoint:
        """As many as take the rate, where an estimate is too low by the factor ``trust``; by default with some room.
        That of a pair is never too low: what its decoding replicas take hardly depends on chance."""
        trust = min(trust, 1.0) if self.point.prefill_replicas else trust
        point = replace(self.point, replicas=_needed(rate_per_s, self.capacity_per_s * trust))
        if point.prefill_replicas:
            point = replace(point, prefill_replicas=_needed(rate_per_s, self.prefill_per_s * trust))
        return point


def _needed(rate_per_s: float, each_per_s: float) -> int:
    return max(math.ceil(rate_per_s / each_per_s), 1)


@dataclass(slots=True)
class Cuts:
    """Of one kind of GPU. ``found`` may do; ``candidates`` were thought of, ``ruled_out`` of them by reason;
    ``needs_at_least`` is the fewest GPUs that the bounds leave; ``too_slow`` are cuts whose tokens take too long by the
    estimate even where they come alone, the fastest first; ``pairs_set_aside`` are pairs of prefill and decode."""

    found: list[Cut] = field(default_factory=list[Cut])
    too_slow: list[Cut] = field(default_factory=list[Cut])
    candidates: int = 0
    ruled_out: dict[str, int] = field(default_factory=dict[str, int])
    needs_at_least: int | None = None
    pairs_set_aside: int = 0
    reasons: list[str] = field(default_factory=list[str])

    def rule_out(self, kind: str, count: int) -> None:
        """So many more for a reason."""
        self.ruled_out[kind] = self.ruled_out.get(kind, 0) + count


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The part of a question that is the same for all hardware."""

    site: Site
    rate_per_s: float
    slo: Slo
    workload: Workload
    profile_root: str | None

    @property
    def round_limit_ns(self) -> float:
        """What a token of a mean step may take."""
        return round_limit_ns(self.slo, Traffic.of(self.workload)) / PERCENTILE_ROOM


def cuts_of(hardware: str, available: int, asked: Asked) -> Cuts:
    """All cuts of one replica, those that the rules, the memory or the bounds rule out taken away."""
    cuts = Cuts()
    feasibility = Feasibility(asked.site, asked.profile_root)
    mixture = _is_mixture(hardware, asked)
    for tp in TP:
        for pp in PP:
            for dp in DP if mixture else (1,):
                point = DesignPoint(hardware=hardware, tp=tp, pp=pp, dp=dp, replicas=1)
                _look_at(point, max(available // point.gpus, 1), asked, feasibility, cuts)
    if not mixture:
        _add_prefill_apart(asked, cuts)
    cuts.found.sort(
        key=lambda cut: (cut.replicas(asked.rate_per_s).gpus, -cut.capacity_per_s / cut.point.gpus)
    )
    cuts.too_slow.sort(key=lambda cut: cut.round_ns)
    return cuts


def _is_mixture(hardware: str, asked: Asked) -> bool:
    """Whether the model has experts, so that its ranks may share them out in lock-step."""
    config = cluster_config(DesignPoint(hardware=hardware, tp=1, pp=1, replicas=1), asked.site)
    return load_cluster(config, profile_root=_path(asked.profile_root)).instances[0].model.moe is not None


def _look_at(point: DesignPoint, replicas: int, asked: Asked, feasibility: Feasibility, cuts: Cuts) -> None:
    """Bounds and estimate of one way to cut; ``replicas`` is how many candidates it stands for, with each option."""
    of_seqs = replicas * len(MAX_NUM_BATCHED_TOKENS)
    cuts.candidates += replicas * len(OPTIONS)
    reason = feasibility.why_not(point)
    if reason is not None:
        cuts.rule_out(reason.kind, replicas * len(OPTIONS))
        cuts.reasons.append(reason.text)
        return
    built = _built(point, asked)
    replica = Replica.of(built)
    if built.group_cost is not None:
        replica = _with_wider_steps(replica, point, asked, feasibility)
    hardware = find_hardware(point.hardware)
    assert hardware is not None, "checked with the question"
    possible: dict[int, Bounds] = {}
    for seqs in MAX_NUM_SEQS:
        instance = replace(built.spec, scheduler=replace(built.spec.scheduler, max_num_seqs=seqs))
        bounds = bounds_of(instance, hardware, replica.kv_tokens, asked.workload)
        impossible = why_impossible(bounds, asked.slo, asked.workload)
        if impossible is not None:
            cuts.rule_out(impossible.partition(":")[0], of_seqs)
            cuts.reasons.insert(0, impossible)  # the widest cut, which comes last, is the one to tell of
            continue
        least = max(math.ceil(asked.rate_per_s / bounds.requests_per_s), 1) if bounds.requests_per_s else 1
        needed = least * point.gpus
        cuts.needs_at_least = min(needed, cuts.needs_at_least or needed)
        cuts.rule_out(bounds.limited_by, min(least - 1, replicas) * len(MAX_NUM_BATCHED_TOKENS))
        possible[seqs] = bounds
    if possible:
        _estimate(point, replica, possible, asked, cuts)


def _built(point: DesignPoint, asked: Asked) -> BuiltInstance:
    cluster = load_cluster(cluster_config(point, asked.site), profile_root=_path(asked.profile_root))
    return build_instances(cluster, _path(asked.profile_root))[0]


def _with_wider_steps(
    replica: Replica, point: DesignPoint, asked: Asked, feasibility: Feasibility
) -> Replica:
    """Ranks in lock-step know the times of the steps that they may take: here those of the largest budget that fits."""
    for tokens in reversed(MAX_NUM_BATCHED_TOKENS):
        wide = replace(point, max_num_batched_tokens=tokens)
        if tokens > replica.max_num_batched_tokens and feasibility.why_not(wide) is None:
            wider = Replica.of(_built(wide, asked))
            return replace(replica, stage_ns=wider.stage_ns, most_step_tokens=wider.max_num_batched_tokens)
    return replace(replica, most_step_tokens=replica.max_num_batched_tokens)


def _estimate(
    point: DesignPoint, replica: Replica, possible: Mapping[int, Bounds], asked: Asked, cuts: Cuts
) -> None:
    """The options with which a replica takes most; the smaller ones where others do not bring a hundredth."""
    traffic = Traffic.of(asked.workload)
    best: tuple[MeanStep, DesignPoint] | None = None
    for seqs in possible:
        for tokens in MAX_NUM_BATCHED_TOKENS:
            if tokens < seqs or tokens > replica.most_step_tokens:
                continue
            step = replica.with_options(seqs, tokens).most(traffic, asked.round_limit_ns)
            if step is None:
                continue
            if best is None or step.requests_per_s > 1.01 * best[0].requests_per_s:
                best = step, replace(point, max_num_seqs=seqs, max_num_batched_tokens=tokens)
    if best is None:
        alone = replica.step(1e-9, traffic)
        options = {"max_num_seqs": 256, "max_num_batched_tokens": 2048}
        cuts.too_slow.append(Cut(replace(point, **options), replica, 0.0, alone.round_ns))
        return
    cuts.found.append(Cut(best[1], replica, best[0].requests_per_s, best[0].round_ns))


def _add_prefill_apart(asked: Asked, cuts: Cuts) -> None:
    """The pair of cuts that takes the fewest GPUs where one computes prompts and the other decodes, if by estimate it
    takes no more than the best cut that does both."""
    traffic = Traffic.of(asked.workload)
    prefill: list[tuple[DesignPoint, float]] = []
    decode: list[tuple[Cut, float]] = []
    for cut in cuts.found:
        # Both sides take the pair's options: the tokens of a step concern prompts, the sequences decoding, which has
        # room for more of them than beside prompts.
        steps = {
            tokens: replace(cut.replica, decodes=False, max_num_batched_tokens=tokens).most(traffic)
            for tokens in MAX_NUM_BATCHED_TOKENS
        }
        best = _least_of_best(steps)
        if best is not None:
            prefill.append((replace(cut.point, max_num_batched_tokens=best[0]), best[1] / PREFILL_ROOM))
        steps = {
            seqs: replace(cut.replica, prefills=False, max_num_seqs=seqs).most(traffic, asked.round_limit_ns)
            for seqs in MAX_NUM_SEQS
        }
        best = _least_of_best(steps)
        if best is not None:
            decode.append((replace(cut, point=replace(cut.point, max_num_seqs=best[0])), best[1]))
    pairs = [
        Cut(_pair(whole.point, apart), whole.replica, per_s, whole.round_ns, prefill_per_s)
        for whole, per_s in decode
        for apart, prefill_per_s in prefill
        if min(per_s, prefill_per_s) > 0
    ]
    cuts.candidates += len(pairs)
    best = min(pairs, key=lambda cut: _gpus_and_load(cut, asked.rate_per_s), default=None)
    whole = min((cut.replicas(asked.rate_per_s).gpus for cut in cuts.found), default=0)
    if best is not None and best.replicas(asked.rate_per_s).gpus <= whole:
        cuts.found.append(best)
    cuts.pairs_set_aside = len(pairs) - sum(one is best for one in cuts.found)


def _pair(whole: DesignPoint, apart: DesignPoint) -> DesignPoint:
    """One replica that decodes and one that computes prompts."""
    tokens = max(apart.max_num_batched_tokens or 0, whole.max_num_seqs or 0)
    return replace(
        whole, max_num_batched_tokens=tokens, prefill_replicas=1, prefill_tp=apart.tp, prefill_pp=apart.pp
    )


def _gpus_and_load(cut: Cut, rate_per_s: float) -> tuple[int, float]:
    """Of those that take as many GPUs the one whose fuller side is the less full."""
    point = cut.replicas(rate_per_s)
    full = rate_per_s / (point.replicas * cut.capacity_per_s)
    return point.gpus, max(full, rate_per_s / (point.prefill_replicas * cut.prefill_per_s))


def _least_of_best(steps: Mapping[int, MeanStep | None]) -> tuple[int, float] | None:
    """The smallest limit with which requests per second are within a hundredth of the most, and those."""
    able = {limit: step.requests_per_s for limit, step in steps.items() if step is not None}
    if not able:
        return None
    most = max(able.values())
    return next((limit, per_s) for limit, per_s in able.items() if per_s >= most / 1.01)


def _path(root: str | None) -> Path | None:
    return None if root is None else Path(root)
