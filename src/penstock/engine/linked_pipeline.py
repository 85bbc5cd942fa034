"""Stages some of whose hops go over links that others use too: another step, of any replica, may ask first.

So a step stops at each shared hop and asks for it when it gets there, and the steps behind it on a stage wait where
a send blocks it, or where they need a token that is still on its way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from penstock.cost.step_cost import PipelineCost
from penstock.engine.executor import Arrived, HoldBack, Started
from penstock.network.links import Link, Network
from penstock.scheduler.step import UNKNOWN_NS, Step


@dataclass(slots=True, eq=False)
class _Transit:
    """A step on its way: ``arrive_ns`` at ``stage``."""

    step: Step
    tokens: int
    arrive_ns: int
    compute_ns: Sequence[int]
    times: list[int]
    stage: int = 0


class LinkedPipeline:
    """An :class:`~penstock.engine.executor.Executor`. ``links[s]`` is the link behind stage s, ``rank`` orders
    transfers that are asked for at the same time."""

    def __init__(
        self,
        cost: PipelineCost,
        network: Network,
        links: Sequence[Link],
        *,
        rank: int,
        blocking_sends: bool = False,
        back_ns: int = 0,
    ) -> None:
        self.pp_size = len(links) + 1
        self.cost = cost
        self.back_ns = back_ns
        self.stage_free_ns = [0] * self.pp_size
        self._network = network
        self._links = tuple(links)
        self._hops = [(hop.arrival_ns, hop.occupancy_ns) for hop in cost.hops]
        self._rank = rank
        self._blocking_sends = blocking_sends
        self._arrived: Arrived = _nobody
        self._started: Started | None = None
        self._hold_back: HoldBack | None = None
        # Who waits, in order: at a stage that a send blocks, and before the first stage for a step's tokens.
        self._blocked = [False] * self.pp_size
        self._lines: list[deque[_Transit]] = [deque() for _ in range(self.pp_size)]
        self._held: deque[tuple[_Transit, Step]] = deque()
        # Steps that have not left the last stage, in order, and among them the empty ones with their time.
        self._open: deque[tuple[Step, int | None]] = deque()
        self._last_end_ns = 0

    def when_arrived(self, arrived: Arrived) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        self._arrived = arrived

    def when_started(self, started: Started) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        self._started = started

    def ask_before_start(self, hold_back: HoldBack) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        self._hold_back = hold_back

    def launch(self, step: Step, entry_ns: int) -> Sequence[int] | None:
        """See :class:`~penstock.engine.executor.Executor`."""
        times = [0] * (3 * self.pp_size)
        transit = _Transit(
            step,
            step.tokens,
            entry_ns,
            self.cost.stage.stage_ns(step),
            times,
        )
        step.end_ns = step.done_ns = UNKNOWN_NS
        self._open.append((step, None))
        after = step.after
        if after is not None and after.end_ns != UNKNOWN_NS:
            transit.arrive_ns = max(entry_ns, after.end_ns)
            after = None
        if after is not None or self._held:
            # Whoever has nothing to wait for enters behind those that have.
            self._held.append((transit, after or self._held[-1][1]))
            return None
        self._enter(transit, is_launch=True)
        return None if step.end_ns == UNKNOWN_NS else times

    def pass_empty(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        if self._open:
            step.done_ns = UNKNOWN_NS
            self._open.append((step, now))
        else:
            step.done_ns = max(now, self._last_end_ns)

    def _enter(self, transit: _Transit, *, is_launch: bool = False) -> None:
        """A step has come to a stage, and goes on as far as is known."""
        while True:
            stage = transit.stage
            if self._blocked[stage]:
                self._lines[stage].append(transit)
                return
            start = max(self.stage_free_ns[stage], transit.arrive_ns)
            if self._hold_back is not None:
                start = self._hold_back(transit.step, stage, start)
            end = start + transit.compute_ns[stage]
            self.stage_free_ns[stage] = end
            transit.times[3 * stage : 3 * stage + 3] = transit.arrive_ns, start, end
            if self._started is not None:
                self._started(transit.step, stage, start, end)
            if stage == self.pp_size - 1:
                self._leave(transit, end, is_launch=is_launch)
                return
            link = self._links[stage]
            arrival, occupancy = self._hops[stage]
            if link.is_shared:
                self._blocked[stage] = self._blocking_sends
                self._network.transfer(
                    (link,),
                    occupancy_ns=occupancy[transit.tokens],
                    arrival_ns=arrival[transit.tokens],
                    at_ns=end,
                    arrived=partial(self._cross, transit),
                    rank=self._rank,
                )
                return
            depart = max(link.free_ns, end)
            link.free_ns = depart + occupancy[transit.tokens]
            transit.arrive_ns = depart + arrival[transit.tokens]
            transit.stage = stage + 1
            if self._blocking_sends:
                self.stage_free_ns[stage] = transit.arrive_ns

    def _cross(self, transit: _Transit, start_ns: int, arrive_ns: int) -> None:
        """A step has got its shared link, and the stage that it left may be free for the next one."""
        stage = transit.stage
        transit.arrive_ns = arrive_ns
        transit.stage = stage + 1
        self._enter(transit)
        if not self._blocking_sends:
            return
        # Only then is the stage free: whoever that lets in goes behind those who wait already.
        self.stage_free_ns[stage] = arrive_ns
        self._blocked[stage] = False
        line = self._lines[stage]
        while line and not self._blocked[stage]:
            self._enter(line.popleft())

    def _leave(self, transit: _Transit, end_ns: int, *, is_launch: bool) -> None:
        step = transit.step
        step.end_ns = end_ns
        step.done_ns = end_ns + self.cost.token_return_ns[step.sampled] + self.back_ns
        self._last_end_ns = end_ns
        self._open.popleft()
        if not is_launch:
            self._arrived(step, transit.times)
        while self._open and (passed_ns := self._open[0][1]) is not None:
            empty, _ = self._open.popleft()
            empty.done_ns = max(passed_ns, end_ns)
            self._arrived(empty, ())
        while self._held and self._held[0][1].end_ns != UNKNOWN_NS:
            waiting, after = self._held.popleft()
            waiting.arrive_ns = max(waiting.arrive_ns, after.end_ns)
            self._enter(waiting)


def _nobody(step: Step, times: Sequence[int]) -> None:
    """Before anyone listens."""
