"""Stages behind links that others use too.

Where a hop goes over a link of its own, a step's whole way is known when it is submitted. On a shared link it is
not: another step, of any instance, may ask for the link first. So a step stops at each shared hop and asks when it
gets there; transfers are granted first come, first served, in the order of simulated time over all instances.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from penstock.cost.step_cost import PipelineCost
from penstock.pipeline.pipeline import Pipeline


@dataclass(slots=True)
class SharedLink:
    """A link of several hops, first in, first out."""

    name: str
    free_ns: int = 0


@dataclass(slots=True, order=True)
class _Transit:
    """A step on its way: it asks for the link behind ``stage`` at ``at_ns``."""

    at_ns: int
    number: int
    stage: int = field(compare=False)
    tokens: int = field(compare=False)
    compute_ns: Sequence[int] = field(compare=False)
    times: list[int] = field(compare=False)
    arrived: Callable[[int, list[int]], None] = field(compare=False)


class ContendedPipeline(Pipeline):
    """A pipeline some of whose hops use a shared link; ``links[s]`` is the one behind stage s, or None."""

    def __init__(self, cost: PipelineCost, pp_size: int, links: Sequence[SharedLink | None]) -> None:
        super().__init__(cost, pp_size)
        self._links = links
        self._transits: list[_Transit] = []
        self._number = 0

    @property
    def next_transfer_ns(self) -> int | None:
        """When a step next asks for a shared link; None if none is on its way to one."""
        return self._transits[0].at_ns if self._transits else None

    def launch(
        self,
        at_ns: int,
        tokens: int,
        compute_ns: Sequence[int],
        arrived: Callable[[int, list[int]], None],
    ) -> None:
        """Send a step off; ``arrived(end_ns, times)`` is called once its way through all stages is known."""
        self._number += 1
        times = [0] * (3 * self.pp_size)
        transit = _Transit(at_ns, self._number, 0, tokens, compute_ns, times, arrived)
        self._pass(transit, 0, at_ns)

    def grant(self) -> None:
        """Let the step that asked first have its link, and follow it to the next one or to its end."""
        transit = heapq.heappop(self._transits)
        stage, tokens = transit.stage, transit.tokens
        link = self._links[stage]
        assert link is not None
        arrival, occupancy = self._hops[stage]
        depart = max(link.free_ns, transit.at_ns)
        link.free_ns = depart + occupancy[tokens]
        self._pass(transit, stage + 1, depart + arrival[tokens])

    def _pass(self, transit: _Transit, stage: int, arrive: int) -> None:
        """Through ``stage`` and all after it, up to the next shared hop."""
        times = transit.times
        while True:
            start = max(self.stage_free_ns[stage], arrive)
            end = start + transit.compute_ns[stage]
            self.stage_free_ns[stage] = end
            times[3 * stage : 3 * stage + 3] = arrive, start, end
            if stage == self.pp_size - 1:
                transit.arrived(end, times)
                return
            if self._links[stage] is not None:
                transit.at_ns, transit.stage = end, stage
                heapq.heappush(self._transits, transit)
                return
            arrival, occupancy = self._hops[stage]
            depart = max(self._link_free_ns[stage], end)
            self._link_free_ns[stage] = depart + occupancy[transit.tokens]
            arrive = depart + arrival[transit.tokens]
            stage += 1
