"""Stages and links, first in, first out, as queues: nothing is computed ahead of the time at which it is known.

A step waits at each stage for the steps before it, asks for the link behind the stage when it has been computed,
and with blocking sends the stage stays occupied until the activations have arrived. A link serves whoever asked
first; of those that ask at one time the lower instance, then the earlier step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock.cost.step_cost import PipelineCost, StepShape

from .scheduler import Schedule
from .world import Phase, World


@dataclass(slots=True)
class Link:
    """Busy until ``free_ns``."""

    free_ns: int = 0


@dataclass(slots=True, eq=False)
class Transit:
    """A step on its way. It cannot enter stage 0 before all of ``after`` have left the last stage: it needs the
    tokens sampled there. ``arrive``, ``start`` and ``end`` are filled in stage by stage."""

    number: int
    tokens: int
    compute_ns: Sequence[int]
    entry_ns: int
    after: Sequence[Transit]
    left: Callable[[Transit], None]
    arrive: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    end_ns: int | None = None

    @property
    def stage_ns(self) -> list[list[int]]:
        """``[start, end]`` of every stage passed."""
        return [list(pair) for pair in zip(self.start, self.end, strict=True)]


@dataclass(slots=True)
class Stage:
    """``line`` waits to be computed. ``free_ns`` is None while a blocking send is under way."""

    line: deque[Transit] = field(default_factory=deque)
    free_ns: int | None = 0


class ReferencePipeline:
    """The stages of instance ``rank``; ``shared_links`` are those of the whole cluster by name."""

    def __init__(
        self,
        world: World,
        cost: PipelineCost,
        rank: int,
        shared_links: dict[str, Link],
        *,
        blocking_sends: bool,
    ) -> None:
        self.world = world
        self.cost = cost
        self.rank = rank
        self.blocking_sends = blocking_sends
        self.stages = [Stage() for _ in range(len(cost.hops) + 1)]
        self.links = [
            shared_links.setdefault(hop.shared_link, Link()) if hop.shared_link else Link()
            for hop in cost.hops
        ]
        self._launched = 0

    def launch(
        self, schedule: Schedule, entry_ns: int, after: Sequence[Transit], left: Callable[[Transit], None]
    ) -> Transit:
        """Send a step off; ``left`` is called once its end on the last stage is known."""
        self._launched += 1
        compute = stage_ns(self.cost, schedule)
        transit = Transit(self._launched, schedule.tokens, compute, entry_ns, after, left)
        transit.arrive.append(entry_ns)
        self.stages[0].line.append(transit)
        self._compute(0)
        return transit

    def _compute(self, place: int) -> None:
        """Let those in line before a stage be computed, as far as times are known."""
        stage = self.stages[place]
        while stage.line and stage.free_ns is not None:
            transit = stage.line[0]
            if place == 0:
                ends = [other.end_ns for other in transit.after]
                if None in ends:
                    return
                transit.arrive[0] = max([transit.entry_ns, *(end for end in ends if end is not None)])
            stage.line.popleft()
            start = max(stage.free_ns, transit.arrive[place])
            end = start + transit.compute_ns[place]
            transit.start.append(start)
            transit.end.append(end)
            if place == len(self.stages) - 1:
                stage.free_ns = end
                self._leave(transit, end)
                continue
            stage.free_ns = None if self.blocking_sends else end
            rank = (self.rank, transit.number)
            self.world.at(end, Phase.LINK, rank, lambda transit=transit: self._send(transit, place))

    def _send(self, transit: Transit, place: int) -> None:
        """A step has been computed and asks for the link, now."""
        link, hop = self.links[place], self.cost.hops[place]
        depart = max(link.free_ns, transit.end[place])
        link.free_ns = depart + hop.occupancy_ns[transit.tokens]
        arrive = depart + hop.arrival_ns[transit.tokens]
        transit.arrive.append(arrive)
        self.stages[place + 1].line.append(transit)
        self._compute(place + 1)
        if self.blocking_sends:
            self.stages[place].free_ns = arrive
            self._compute(place)

    def _leave(self, transit: Transit, end: int) -> None:
        transit.end_ns = end
        transit.left(transit)
        self._compute(0)  # who waits for the tokens of this step


def stage_ns(cost: PipelineCost, schedule: Schedule) -> Sequence[int]:
    """Compute time of a step on every stage. A chunk of one token counts as a decode."""
    prefills = [chunk for chunk in schedule.chunks if chunk.new > 1]
    decodes = [chunk.computed for chunk in schedule.chunks if chunk.new == 1]
    return cost.stage.stage_ns(
        StepShape(
            sum(chunk.new for chunk in prefills),
            sum(chunk.computed for chunk in prefills),
            len(decodes),
            sum(decodes),
            min(decodes, default=0),
            max(decodes, default=0),
            schedule.sampled,
        )
    )


def prefill_ns(cost: PipelineCost) -> Callable[[int, int], int]:
    """What policies that size chunks by their time are told: the slowest stage's time of a chunk of so many tokens
    after so many others."""
    return lambda tokens, context: max(cost.stage.stage_ns(StepShape(tokens, context)))
