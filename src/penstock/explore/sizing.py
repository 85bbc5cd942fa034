"""How many GPUs of which kind, cut how, serve a load within an SLO: the question of who has to buy them.

Candidates are all cuts tp x pp (x dp of a mixture of experts) x replicas x engine options, and prefill apart from
decode.

* What the engine's rules, the memory or the bounds of :mod:`penstock.explore.bounds` rule out is never simulated.
* The estimate of :mod:`penstock.explore.estimate` gives each cut its options and how many replicas to begin with, and
  so the order. Cuts that would need more GPUs than the third best even if it were too low by 15% are set aside.
* The others are simulated whole, at the asked rate, in their steady state (:func:`penstock.explore.hold.hold_rate`): a
  deployment that misses gets a replica more, one that holds is tried with one less where the estimate is that near.
* One that holds by its estimates while runs as long as allowed leave it unsure stays an answer, with a mark; beside it
  stands the next larger one of its cut that holds for sure.
* What is shown has its headroom beside it (:func:`penstock.explore.hold.find_edge`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.explore.capacity import PER_CONCURRENT
from penstock.explore.design_point import DesignPoint, Site
from penstock.explore.evaluate import Evaluator, make_evaluator
from penstock.explore.pool import Executor, Lost
from penstock.explore.result import OK, PointResult
from penstock.explore.size_cuts import BELIEVED, Asked, Cut, Cuts, cuts_of
from penstock.explore.size_evaluate import ALONE, ALONE_REQUESTS, EDGE, HOLD, SizeEvaluator, SizeJob
from penstock.explore.slo import Slo, shown_ns
from penstock.explore.study_spec import LoadPlan
from penstock.units import NS_PER_S
from penstock.workload.generate import Recipe
from penstock.workload.offered_load import Arrivals
from penstock.workload.workload import Workload

CUTS_SHOWN = 3
MOST_CUTS = 8
"""Cuts of one hardware that are simulated, at most."""

MOST_GPUS = 4096

FAR = 1.3
"""Who may have one deployment does not ask for another with so many times its GPUs, unless they are there."""

_TRIES = 6
_ALONE_AFTER = 2

OBJECTIVES: dict[str, Callable[[PointResult], tuple[float, float]]] = {
    "gpus": lambda result: (result.gpus, result.excess or 0.0),
    "joules_per_token": lambda result: (
        math.inf if result.joules_per_token is None else result.joules_per_token,
        result.gpus,
    ),
}
"""What orders the deployments that hold, the least first. Which cuts are looked at goes by their GPUs."""

MakeExecutor = Callable[[Callable[[SizeJob], PointResult]], Executor[SizeJob, PointResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeQuestion:
    """``hardware`` is how many GPUs of each label there are; ``requests`` and ``max_requests`` how long runs are at
    least and at most. ``objective`` is one of :data:`OBJECTIVES`."""

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
    max_requests: int = 8000
    profile_root: str | None = None
    objective: str = "gpus"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A deployment that holds the SLO at the rate: ``at_rate`` is its steady state there, ``edge`` that of the highest
    rate that held in a look upwards. ``fits`` says whether there are so many GPUs; where it is not ``sure`` to hold,
    ``safe`` is the next larger one of its cut that is."""

    at_rate: PointResult
    fits: bool
    edge: PointResult | None = None
    safe: PointResult | None = None

    @property
    def sure(self) -> bool:
        """Whether it holds at the upper ends of the intervals."""
        return self.at_rate.why_wide is None

    @property
    def point(self) -> DesignPoint:
        """What it is."""
        return self.at_rate.point

    @property
    def headroom(self) -> float | None:
        """By how much the load may grow, relative to the rate."""
        rate, edge = self.at_rate.rate_per_s, self.edge
        if edge is None or not rate or edge.rate_per_s is None:
            return None
        return max(edge.rate_per_s / rate - 1, 0.0)


@dataclass(slots=True)
class _Trials:
    """One cut under way: which deployments of it held and missed, and which one is next; None ends it. After two that
    missed it is asked whether requests that come one by one are within the SLO; ``hopeless`` says that they are not.
    ``held`` is the smallest that holds, ``largest`` the largest, ``safe`` the smallest that does for sure."""

    cut: Cut
    next: DesignPoint | None
    alone: bool = False
    held: PointResult | None = None
    largest: PointResult | None = None
    safe: PointResult | None = None
    hopeless: PointResult | None = None
    set_aside: bool = False
    asked_more: bool = False
    missed: dict[DesignPoint, PointResult] = field(default_factory=dict[DesignPoint, PointResult])

    def job(self, question: SizeQuestion) -> SizeJob:
        """The next look: as long as the requests that are in the system at once ask for."""
        assert self.next is not None
        in_engine_s = float(question.workload.output_tokens.mean()) * self.cut.round_ns / NS_PER_S
        if self.alone:
            one = replace(self.next, replicas=1, prefill_replicas=min(self.next.prefill_replicas, 1))
            return SizeJob(ALONE, one, 1 / (20 * in_engine_s), ALONE_REQUESTS)
        requests = max(question.requests, round(PER_CONCURRENT * question.rate_per_s * in_engine_s))
        return SizeJob(HOLD, self.next, question.rate_per_s, min(requests, question.max_requests))

    def take(self, result: PointResult, rate_per_s: float) -> None:
        """Note a result and choose what to try next."""
        point = result.point
        if self.alone:
            self.alone = False
            self.hopeless = None if result.status == OK else result
            if self.hopeless or not self.cut.capacity_per_s:
                self.next = None
            return
        if result.status == OK:
            if self.held is None or point.gpus < self.held.gpus:
                self.held = result
            if self.largest is None or point.gpus > self.largest.gpus:
                self.largest = result
            if result.why_wide is None and (self.safe is None or point.gpus < self.safe.gpus):
                self.safe = result
            self.next = None if self.asked_more else self._smaller(point, rate_per_s) or self._one_more()
            return
        self.missed[point] = result
        self.alone = len(self.missed) == _ALONE_AFTER
        larger = _larger(self.cut, result)
        if self.held is not None:
            self.next = self._one_more()
            return
        stop = len(self.missed) >= _TRIES or larger.gpus > MOST_GPUS
        self.next = None if stop or result.rate_per_s is None else larger

    def _one_more(self) -> DesignPoint | None:
        """One that is larger than all that hold, once, where none of them does for sure."""
        if self.held is None or self.largest is None or self.safe is not None or self.asked_more:
            return None
        self.asked_more = True
        return _larger(self.cut, self.largest)

    def why_not(self) -> str:
        """Why nothing held."""
        last = self.hopeless or next(reversed(self.missed.values()), None)
        if last is not None:
            return f"{last.point.label}: {last.reason}"
        took = shown_ns(self.cut.round_ns)
        return f"{self.cut.point.label}: a token takes {took} with no other request beside it, by estimate"

    def _smaller(self, point: DesignPoint, rate_per_s: float) -> DesignPoint | None:
        """A replica less, of those for prompts first, where the estimate does not speak clearly against it."""
        least = self.cut.replicas(rate_per_s, BELIEVED)
        for member in ("prefill_replicas", "replicas"):
            count: int = getattr(point, member)
            fewer = replace(point, **{member: count - 1})
            if count > getattr(least, member) and not any(_within(fewer, missed) for missed in self.missed):
                return fewer
        return None


def _within(point: DesignPoint, other: DesignPoint) -> bool:
    """Whether a deployment has no more replicas of either kind than another of the same cut."""
    return point.replicas <= other.replicas and point.prefill_replicas <= other.prefill_replicas


def _larger(cut: Cut, result: PointResult) -> DesignPoint:
    """By as much of a fourth of the replicas as the limits are exceeded, one at least. Where prompts are computed apart
    and first tokens are late, the side that is fuller by the estimate grows: they wait for either."""
    point, excess = result.point, result.excess or math.inf
    metric = (result.limiting_metric or "").partition("_")[0]
    member = "replicas"
    if point.prefill_replicas and metric in ("ttft", "queuing", "queue"):
        prompts_per_s = point.prefill_replicas * cut.prefill_per_s
        if prompts_per_s < point.replicas * cut.capacity_per_s:
            member = "prefill_replicas"
    count: int = getattr(point, member)
    return replace(point, **{member: count + max(math.ceil(count * min(excess - 1, 0.25)), 1)})


@dataclass(slots=True, kw_only=True)
class HardwareAnswer:
    """Of one kind of GPU: the deployments that hold, the best by the objective first; or the reasons why none does.
    ``set_aside`` are cuts that were not simulated because others need fewer GPUs by far."""

    hardware: str
    available: int
    cuts: Cuts
    choices: list[Choice] = field(default_factory=list[Choice])
    reasons: list[str] = field(default_factory=list[str])
    set_aside: int = 0
    trials: list[_Trials] = field(default_factory=list[_Trials])

    @property
    def fits(self) -> bool:
        """Whether the GPUs that there are will do."""
        return any(choice.fits for choice in self.choices)

    def begin(self, rate_per_s: float) -> list[_Trials]:
        """Trials with something to try: as many cuts as may still be among the best are under way."""
        if not self.cuts.found and not self.trials:
            # All are too slow by the estimate: the fastest is asked, so that a simulation says it.
            self.trials = [_Trials(cut, cut.point, alone=True) for cut in self.cuts.too_slow[:1]]
            return list(self.trials)
        held = sorted(one.held.gpus for one in self.trials if one.held is not None)
        worst = self._most_gpus(held)
        hopeful = self._hopeful(rate_per_s, held)
        for one in self.trials:
            if one.held is None and one.next is not None and one.next.gpus > worst:
                one.next, one.set_aside = None, True
        open_ = [one for one in self.trials if one.next is not None]
        for cut in self.cuts.found[len(self.trials) : MOST_CUTS]:
            if len(held) + len(open_) >= CUTS_SHOWN and cut.replicas(rate_per_s, BELIEVED).gpus >= worst:
                break
            if len(open_) >= CUTS_SHOWN or cut.replicas(rate_per_s, BELIEVED).gpus > min(worst, hopeful):
                break
            open_.append(_Trials(cut, cut.replicas(rate_per_s)))
            self.trials.append(open_[-1])
        return open_

    def _hopeful(self, rate_per_s: float, held: Sequence[int]) -> float:
        """What is larger by the estimate waits until it is known what the best one takes."""
        if held or (self.trials and all(one.next is None for one in self.trials)):
            return MOST_GPUS
        smallest = self.cuts.found[0].replicas(rate_per_s).gpus if self.cuts.found else MOST_GPUS
        return max(BELIEVED * FAR * smallest, self.available)

    def _most_gpus(self, held: Sequence[int]) -> float:
        """What is larger is not looked at: not among the best three that hold, or far from the best."""
        if not held:
            return MOST_GPUS
        third = held[CUTS_SHOWN - 1] if len(held) >= CUTS_SHOWN else MOST_GPUS
        return min(third, max(FAR * held[0], self.available))

    def conclude(self, objective: str) -> None:
        """Choices and reasons from the trials."""
        held = [one.held for one in self.trials if one.held is not None]
        held.sort(key=OBJECTIVES[objective])
        safe = {id(one.held): one.safe for one in self.trials}
        self.choices = [
            Choice(
                at_rate=one,
                fits=one.gpus <= self.available,
                safe=None if one.why_wide is None else safe[id(one)],
            )
            for one in held[:CUTS_SHOWN]
            if one.gpus <= self._most_gpus([one.gpus for one in held])
        ]
        if self.fits:
            self.choices = [choice for choice in self.choices if choice.fits]
        left = len(self.cuts.found) - sum(not one.set_aside for one in self.trials)
        self.set_aside = max(left, 0) + self.cuts.pairs_set_aside
        self.reasons = [
            one.why_not() for one in self.trials if one.held is None and (one.missed or one.hopeless)
        ]


def size(
    question: SizeQuestion, make_executor: MakeExecutor, tell: Callable[[str], None]
) -> tuple[list[HardwareAnswer], Evaluator]:
    """The answer for each hardware, in the order of the question, and the evaluator of the deployments at the rate."""
    site = Site(
        model=question.model, gpus_per_node=question.gpus_per_node, networks={}, npu_mem={}, engine={}
    )
    asked = Asked(
        site=site,
        rate_per_s=question.rate_per_s,
        slo=question.slo,
        workload=question.workload,
        profile_root=question.profile_root,
    )
    evaluator = make_evaluator(site, _load(question), question.prices, question.profile_root)
    tell("bounds and estimates")
    answers = [
        HardwareAnswer(hardware=label, available=count, cuts=cuts_of(label, count, asked))
        for label, count in question.hardware.items()
    ]
    with make_executor(SizeEvaluator(evaluator)) as executor:
        tell("whole deployments at the rate, and their headroom")
        _run(executor, [_rounds(answer, question) for answer in answers])
    return answers, evaluator


def _load(question: SizeQuestion) -> LoadPlan:
    return LoadPlan(
        workload=question.workload,
        recipe=question.recipe,
        pilot=None,
        arrivals=question.arrivals,
        slo=question.slo,
        rate=question.rate_per_s,
        seeds=1,
        tolerance=0.1,
        requests=question.requests,
        max_requests=question.max_requests,
    )


Rounds = Generator[list[SizeJob], list[PointResult], None]
"""Jobs, for which it waits, until nothing more is to be asked: the results come in the order of the jobs."""


def _rounds(answer: HardwareAnswer, question: SizeQuestion) -> Rounds:
    """All that is asked of one kind of GPU."""
    rate = question.rate_per_s
    while open_ := answer.begin(rate):
        results = yield [trials.job(question) for trials in open_]
        for trials, result in zip(open_, results, strict=True):
            trials.take(result, rate)
    answer.conclude(question.objective)
    if answer.choices:
        edges = yield [_headroom(answer, choice, question) for choice in answer.choices]
        answer.choices = [
            replace(choice, edge=edge) for choice, edge in zip(answer.choices, edges, strict=True)
        ]


def _headroom(answer: HardwareAnswer, choice: Choice, question: SizeQuestion) -> SizeJob:
    """The look upwards from a deployment that holds."""
    held, point = choice.at_rate, choice.point
    cut = next(one.cut for one in answer.trials if one.held is held)
    guess = point.replicas * cut.capacity_per_s
    if point.prefill_replicas:
        guess = min(guess, point.prefill_replicas * cut.prefill_per_s)
    requests = held.requests or question.requests
    return SizeJob(EDGE, point, question.rate_per_s, requests, guess, held.excess or 0.0)


@dataclass(slots=True)
class _Round:
    """Jobs that are waited for together, by their places among all."""

    rounds: Rounds
    waits_for: list[int]
    found: dict[int, PointResult] = field(default_factory=dict[int, PointResult])


def _run(executor: Executor[SizeJob, PointResult], all_rounds: Sequence[Rounds]) -> None:
    """Each goes on as soon as its own jobs are done, whatever becomes of the others.

    Raises:
        RuntimeError: an error of the program at one of the jobs.
    """
    jobs: list[SizeJob] = []
    round_of: dict[int, _Round] = {}

    def ask(rounds: Rounds, results: list[PointResult] | None) -> None:
        try:
            new = next(rounds) if results is None else rounds.send(results)
        except StopIteration:
            return
        one = _Round(rounds, list(range(len(jobs), len(jobs) + len(new))))
        round_of.update(dict.fromkeys(one.waits_for, one))
        jobs.extend(new)

    for rounds in all_rounds:
        ask(rounds, None)
    for place, outcome in executor.run(jobs):
        if isinstance(outcome, Lost):
            raise RuntimeError(f"{jobs[place].point.label}: {outcome.reason}")
        one = round_of.pop(place)
        one.found[place] = outcome
        if len(one.found) == len(one.waits_for):
            ask(one.rounds, [one.found[place] for place in one.waits_for])


def total_candidates(answers: Sequence[HardwareAnswer]) -> tuple[int, int]:
    """Thought of, and ruled out without a simulation."""
    return (
        sum(one.cuts.candidates for one in answers),
        sum(sum(one.cuts.ruled_out.values()) for one in answers),
    )
