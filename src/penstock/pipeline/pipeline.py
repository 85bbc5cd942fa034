"""The clocks of one instance's stages and links.

Stages are first in, first out, so a step's whole way is known when it enters the first stage:

    start[s]    = max(stage free, arrive[s])
    end[s]      = start[s] + compute[s]
    depart[s]   = max(link free, end[s])
    arrive[s+1] = depart[s] + hop

A link is taken for bytes/bandwidth; its latency overlaps with the next transfer. With blocking sends a stage is
free again only when its activations have arrived, as with workers that send synchronously.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penstock.cost.step_cost import PipelineCost


class Pipeline:
    """``stage_free_ns[s]`` is when stage s could start another step; ``times`` holds ``arrive, start, end`` of
    the latest step for every stage, one after the other."""

    def __init__(self, cost: PipelineCost, pp_size: int, *, blocking_sends: bool = False) -> None:
        if len(cost.hops) != pp_size - 1:
            raise ValueError(f"{pp_size} stages need {pp_size - 1} hops, not {len(cost.hops)}")
        self.pp_size = pp_size
        self.stage_free_ns = [0] * pp_size
        self.times = [0] * (3 * pp_size)
        self._link_free_ns = [0] * (pp_size - 1)
        self._hops = [(hop.arrival_ns, hop.occupancy_ns) for hop in cost.hops]
        self._blocking_sends = blocking_sends

    def submit(
        self,
        at_ns: int,
        tokens: int,
        compute_ns: Sequence[int],
        hold_back: Callable[[int, int], int] | None = None,
    ) -> int:
        """Send a step of ``tokens`` tokens through all stages, entering at ``at_ns``; returns the end on the
        last one. ``hold_back`` is asked, with a stage and when that could start the step, when it may."""
        if hold_back is not None:
            return self._submit_held_back(at_ns, tokens, compute_ns, hold_back)
        stage_free = self.stage_free_ns
        link_free = self._link_free_ns
        times = self.times
        blocking_sends = self._blocking_sends
        arrive = at_ns
        stage = place = 0
        for arrival, occupancy in self._hops:
            start = stage_free[stage]
            if arrive > start:
                start = arrive
            times[place] = arrive
            times[place + 1] = start
            times[place + 2] = stage_free[stage] = end = start + compute_ns[stage]
            depart = link_free[stage]
            if end > depart:
                depart = end
            link_free[stage] = depart + occupancy[tokens]
            arrive = depart + arrival[tokens]
            if blocking_sends:
                stage_free[stage] = arrive
            stage += 1
            place += 3
        start = stage_free[stage]
        if arrive > start:
            start = arrive
        times[place] = arrive
        times[place + 1] = start
        times[place + 2] = stage_free[stage] = end = start + compute_ns[stage]
        return end

    def _submit_held_back(
        self, at_ns: int, tokens: int, compute_ns: Sequence[int], hold_back: Callable[[int, int], int]
    ) -> int:
        arrive = at_ns
        last = self.pp_size - 1
        for stage in range(self.pp_size):
            start = hold_back(stage, max(arrive, self.stage_free_ns[stage]))
            end = start + compute_ns[stage]
            self.stage_free_ns[stage] = end
            self.times[3 * stage : 3 * stage + 3] = arrive, start, end
            if stage < last:
                arrival, occupancy = self._hops[stage]
                depart = max(end, self._link_free_ns[stage])
                self._link_free_ns[stage] = depart + occupancy[tokens]
                arrive = depart + arrival[tokens]
                if self._blocking_sends:
                    self.stage_free_ns[stage] = arrive
        return self.times[-1]
