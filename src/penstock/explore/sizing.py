"""How many GPUs of which kind, cut how, serve a load within an SLO: the question of who has to buy them.

Candidates are all cuts tp x pp x replicas with a few engine options. Those that the engine's rules, the memory or the
bounds of :mod:`penstock.explore.bounds` rule out are never simulated; each has its reason. What is left is looked at in
three steps: the capacity of one replica of every cut, roughly; for the best cuts of each hardware other engine options;
and the whole deployment at the asked rate, in its steady state (:func:`penstock.explore.capacity.hold_rate`), with its
own capacity beside it. A deployment that misses there gets one replica more, twice at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from penstock.cost.memory import plan_memory
from penstock.explore.bounds import Bounds, bounds_of, why_impossible
from penstock.explore.design_point import DesignPoint, Site, cluster_config
from penstock.explore.evaluate import FULL, PILOT, Evaluator, PointJob, make_evaluator
from penstock.explore.pool import Executor, Lost
from penstock.explore.result import OK, PointResult
from penstock.explore.slo import Slo
from penstock.explore.space import Feasibility
from penstock.explore.study_spec import LoadPlan
from penstock.pipeline.partition import partition_layers
from penstock.spec.hardware import find_hardware
from penstock.spec.load import load_cluster
from penstock.workload.generate import Recipe
from penstock.workload.offered_load import Arrivals
from penstock.workload.workload import Workload

TP = (1, 2, 4, 8)
PP = (1, 2, 4, 8, 16)
MAX_NUM_SEQS = (64, 128, 256, 512)
MAX_NUM_BATCHED_TOKENS = (1024, 2048, 4096, 8192)
FIRST_OPTIONS = (256, 2048)
"""``max_num_seqs`` and ``max_num_batched_tokens`` of the first look at a cut."""

OTHER_OPTIONS = ((256, 8192), (512, 2048), (128, 2048))
"""Those that the best cuts are tried with as well."""

CUTS_SHOWN = 3
_SPARE = 1.02
"""A first look's capacity is believed to this factor when replicas are counted; the full look decides."""

MakeExecutor = Callable[[Callable[[PointJob], PointResult]], Executor[PointJob, PointResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeQuestion:
    """``hardware`` is how many GPUs of each label there are; ``requests`` and ``max_requests`` how long runs are at
    first and at most."""

    model: str
    rate_per_s: float
    slo: Slo
    hardware: Mapping[str, int]
    workload: Workload
    recipe: Recipe | None
    arrivals: Arrivals
    prices: Mapping[str, float]
    gpus_per_node: int = 8
    requests: int = 1000
    max_requests: int = 4000
    profile_root: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A deployment that holds the SLO at the rate: ``at_rate`` is its steady state there, ``capacity_per_s`` the
    highest rate of a first look at the whole of it."""

    at_rate: PointResult
    capacity_per_s: float | None

    @property
    def point(self) -> DesignPoint:
        """What it is."""
        return self.at_rate.point

    @property
    def headroom(self) -> float | None:
        """By how much the load may grow, relative to the rate."""
        rate = self.at_rate.rate_per_s
        return None if self.capacity_per_s is None or not rate else max(self.capacity_per_s / rate - 1, 0.0)


@dataclass(slots=True, kw_only=True)
class HardwareAnswer:
    """Of one kind of GPU: the best cuts, or why there are none. ``candidates`` were thought of, ``ruled_out`` of them
    by reason without a simulation; ``needs_at_least`` is the fewest GPUs that the bounds leave, ``would_need`` the
    fewest that a first look at single replicas says, whatever there are."""

    hardware: str
    available: int
    choices: list[Choice] = field(default_factory=list["Choice"])
    candidates: int = 0
    ruled_out: dict[str, int] = field(default_factory=dict[str, int])
    needs_at_least: int | None = None
    would_need: tuple[int, str] | None = None
    reasons: list[str] = field(default_factory=list[str])

    def rule_out(self, kind: str, count: int) -> None:
        """So many more for a reason."""
        self.ruled_out[kind] = self.ruled_out.get(kind, 0) + count


@dataclass(slots=True)
class _Cut:
    """A way to cut one replica, and the fewest replicas that the bounds leave for the rate."""

    point: DesignPoint
    bounds: Bounds
    least_replicas: int
    first_look: PointResult | None = None

    @property
    def per_replica(self) -> int:
        return self.point.tp * self.point.pp

    def replicas(self, rate_per_s: float) -> int | None:
        """By the first look; None where that found no capacity."""
        look = self.first_look
        if look is None or look.status != OK or not look.rate_per_s:
            return None
        return max(math.ceil(rate_per_s / (look.rate_per_s * _SPARE)), self.least_replicas)


def size(
    question: SizeQuestion, make_executor: MakeExecutor, tell: Callable[[str], None]
) -> tuple[list[HardwareAnswer], Evaluator]:
    """The answer for each hardware, in the order of the question, and the evaluator of the deployments at the rate."""
    site = Site(
        model=question.model, gpus_per_node=question.gpus_per_node, networks={}, npu_mem={}, engine={}
    )
    looking = make_evaluator(site, _load(question, None), question.prices, question.profile_root)
    holding = make_evaluator(
        site, _load(question, question.rate_per_s), question.prices, question.profile_root
    )
    answers = [HardwareAnswer(hardware=label, available=count) for label, count in question.hardware.items()]
    cuts = [list(_cuts(question, site, answer)) for answer in answers]
    tried = [_worth_a_look(answer, of_answer) for answer, of_answer in zip(answers, cuts, strict=True)]
    with make_executor(looking) as look, make_executor(holding) as hold:
        flat = [cut for of_answer in tried for cut in of_answer]
        tell(f"one replica of {len(flat)} cuts")
        for cut, result in zip(flat, _run(look, [looking.job(c.point, PILOT) for c in flat]), strict=True):
            cut.first_look = result
        best = [_best(question, answer, of, CUTS_SHOWN) for answer, of in zip(answers, tried, strict=True)]
        flat = [cut for of_answer in best for cut in of_answer]
        tell(f"engine options of the {len(flat)} best")
        _try_options(looking, look, flat)
        tell("whole deployments at the rate")
        for answer, of_answer in zip(answers, best, strict=True):
            answer.choices = _held(question, holding, hold, of_answer, answer)
        tell("their headroom")
        _find_headroom(looking, look, answers)
    return answers, holding


def _load(question: SizeQuestion, rate: float | None) -> LoadPlan:
    return LoadPlan(
        workload=question.workload,
        recipe=question.recipe,
        pilot=question.requests,
        arrivals=question.arrivals,
        slo=question.slo,
        rate=rate,
        seeds=1,
        tolerance=0.1,
        requests=question.requests,
        max_requests=question.max_requests,
    )


def _run(executor: Executor[PointJob, PointResult], jobs: Sequence[PointJob]) -> list[PointResult | None]:
    """Results in the order of the jobs, None where a job was lost."""
    found = {index: outcome for index, outcome in executor.run(jobs) if not isinstance(outcome, Lost)}
    return [found.get(index) for index in range(len(jobs))]


# --- what need not be simulated -----------------------------------------------------------------------------


def _cuts(question: SizeQuestion, site: Site, answer: HardwareAnswer) -> Iterator[_Cut]:
    """Cuts that can run and that no bound rules out, however many replicas; counts candidates and reasons."""
    feasibility = Feasibility(site, question.profile_root)
    per_seqs = len(MAX_NUM_BATCHED_TOKENS)
    for tp in TP:
        for pp in PP:
            replicas = max(answer.available // (tp * pp), 1)
            answer.candidates += replicas * len(MAX_NUM_SEQS) * per_seqs
            seqs, tokens = FIRST_OPTIONS
            point = DesignPoint(
                hardware=answer.hardware,
                tp=tp,
                pp=pp,
                replicas=1,
                max_num_seqs=seqs,
                max_num_batched_tokens=tokens,
            )
            reason = feasibility.why_not(point)
            if reason is not None:
                answer.rule_out(reason.kind, replicas * len(MAX_NUM_SEQS) * per_seqs)
                answer.reasons.append(reason.text)
                continue
            for cut in _bounded(question, site, point):
                impossible = why_impossible(cut.bounds, question.slo, question.workload)
                if impossible is not None:
                    answer.rule_out(impossible.partition(":")[0], replicas * per_seqs)
                    answer.reasons.append(impossible)
                    continue
                needed = cut.least_replicas * cut.per_replica
                answer.needs_at_least = min(needed, answer.needs_at_least or needed)
                answer.rule_out(cut.bounds.limited_by, min(cut.least_replicas - 1, replicas) * per_seqs)
                if cut.point.max_num_seqs == seqs:
                    yield cut


def _bounded(question: SizeQuestion, site: Site, point: DesignPoint) -> Iterator[_Cut]:
    """The cut with every ``max_num_seqs``, each with its bounds."""
    cluster = load_cluster(cluster_config(point, site), profile_root=_path(question.profile_root))
    given = cluster.instances[0]
    hardware = find_hardware(point.hardware)
    assert hardware is not None, "checked with the question"
    layers = given.model.cut(partition_layers(given.model.num_layers, given.pp_size))
    for seqs in MAX_NUM_SEQS:
        instance = replace(given, scheduler=replace(given.scheduler, max_num_seqs=seqs))
        plan = plan_memory(instance, layers)
        kv_tokens = (plan.num_gpu_blocks - 1) * plan.block_size
        bounds = bounds_of(instance, hardware, kv_tokens, question.workload)
        least = max(math.ceil(question.rate_per_s / bounds.requests_per_s), 1)
        yield _Cut(replace(point, max_num_seqs=seqs), bounds, least)


def _path(root: str | None) -> Path | None:
    return None if root is None else Path(root)


def _worth_a_look(answer: HardwareAnswer, cuts: list[_Cut]) -> list[_Cut]:
    """Cuts that may fit the GPUs that there are; where none does, the three that the bounds leave the fewest GPUs,
    for what would do."""
    fitting = [cut for cut in cuts if cut.least_replicas * cut.per_replica <= answer.available]
    if fitting:
        return fitting
    return sorted(cuts, key=lambda cut: cut.least_replicas * cut.per_replica)[:CUTS_SHOWN]


# --- what is simulated --------------------------------------------------------------------------------------


def _best(question: SizeQuestion, answer: HardwareAnswer, cuts: Sequence[_Cut], most: int) -> list[_Cut]:
    """The cuts that need the fewest GPUs by the first look, of those that fit; of equals the one with more to
    spare. Notes what would do, whatever there are."""
    ranked: list[tuple[int, float, _Cut]] = []
    for cut in cuts:
        replicas = cut.replicas(question.rate_per_s)
        if replicas is None or cut.first_look is None:
            continue
        gpus = replicas * cut.per_replica
        spare = replicas * (cut.first_look.rate_per_s or 0.0)
        ranked.append((gpus, -spare, cut))
    ranked.sort(key=lambda one: one[:2])
    if ranked:
        gpus, _, cut = ranked[0]
        shape = replace(
            cut.point, replicas=gpus // cut.per_replica, max_num_seqs=None, max_num_batched_tokens=None
        )
        answer.would_need = (gpus, shape.label)
    else:
        answer.reasons += [c.first_look.reason for c in cuts if c.first_look and c.first_look.reason]
    return [cut for gpus, _, cut in ranked if gpus <= answer.available][:most]


def _try_options(
    evaluator: Evaluator, executor: Executor[PointJob, PointResult], cuts: Sequence[_Cut]
) -> None:
    """Give each cut the options with which one replica of it takes most."""
    jobs: list[tuple[_Cut, DesignPoint]] = [
        (cut, replace(cut.point, max_num_seqs=seqs, max_num_batched_tokens=tokens))
        for cut in cuts
        for seqs, tokens in OTHER_OPTIONS
    ]
    results = _run(
        executor,
        [
            evaluator.job(point, PILOT, cut.first_look.rate_per_s if cut.first_look else None)
            for cut, point in jobs
        ],
    )
    for (cut, point), result in zip(jobs, results, strict=True):
        before = cut.first_look
        if result is None or result.status != OK or before is None:
            continue
        # The engine's own options stay unless others are clearly better: a first look is to ten per cent.
        if (result.rate_per_s or 0.0) > 1.1 * (before.rate_per_s or 0.0):
            cut.point, cut.first_look = point, result


def _held(
    question: SizeQuestion,
    evaluator: Evaluator,
    executor: Executor[PointJob, PointResult],
    cuts: Sequence[_Cut],
    answer: HardwareAnswer,
) -> list[Choice]:
    """The cuts with as many replicas as hold the rate, fewest GPUs first."""
    waiting = [
        replace(cut.point, replicas=replicas)
        for cut in cuts
        if (replicas := cut.replicas(question.rate_per_s))
    ]
    held: list[Choice] = []
    for _ in range(3):
        results = _run(executor, [evaluator.job(point, FULL) for point in waiting])
        more: list[DesignPoint] = []
        for point, result in zip(waiting, results, strict=True):
            if result is not None and result.status == OK:
                held.append(Choice(at_rate=result, capacity_per_s=None))
            elif (point.replicas + 1) * point.tp * point.pp <= answer.available:
                more.append(replace(point, replicas=point.replicas + 1))
            elif result is not None and result.reason:
                answer.reasons.append(f"{point.label}: {result.reason}")
        waiting = more
    return sorted(held, key=lambda one: (one.at_rate.gpus, one.at_rate.excess or 0.0))


def _find_headroom(
    evaluator: Evaluator, executor: Executor[PointJob, PointResult], answers: Sequence[HardwareAnswer]
) -> None:
    places = [(answer, place) for answer in answers for place in range(len(answer.choices))]
    jobs = [
        evaluator.job(
            answer.choices[place].point, PILOT, (answer.choices[place].at_rate.rate_per_s or 1.0) * 1.1
        )
        for answer, place in places
    ]
    for (answer, place), result in zip(places, _run(executor, jobs), strict=True):
        if result is not None and result.status == OK:
            answer.choices[place] = replace(answer.choices[place], capacity_per_s=result.rate_per_s)


def total_candidates(answers: Sequence[HardwareAnswer]) -> tuple[int, int]:
    """Thought of, and ruled out without a simulation."""
    return sum(one.candidates for one in answers), sum(sum(one.ruled_out.values()) for one in answers)
