"""What a replica's workers do beside computing: the seam between the engine loop and the worker side of a connector."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from penstock.scheduler.step import Step


class StepWorkers(Protocol):
    """The workers of one replica, one per stage. Every step, empty ones too, has one moment on each stage: there the
    worker starts what the step tells it to, and looks what has ended."""

    def started(self, step: Step, stage: int, start_ns: int, end_ns: int) -> None:
        """The forward of a step on a stage is known; called in the order of the steps on each stage."""
        ...

    def passed(self, step: Step, now: int, stage_free_ns: list[int]) -> int:
        """A step without tokens was sent off at ``now``; returns when the last worker is done with it.
        ``stage_free_ns`` are the executor's own, which a worker that has to wait moves on."""
        ...

    def quiet_until_ns(self) -> int:
        """Until when they have nothing to start, and see nothing that has ended; 0 where that is not so now."""
        ...

    def went_by(self, older: int, times: Sequence[Sequence[int]]) -> None:
        """Steps went by in such a time. In flight now are ``older`` of those before them, and the latest of them:
        ``times`` has ``arrive, start, end`` of every stage for each of these, oldest first."""
        ...

    def collect(self, now: int) -> None:
        """The oldest step is back: bring together what its workers saw."""
        ...


def pass_moments(
    moments: deque[int], older: int, times: Sequence[Sequence[int]], stage: int, *, at_end: bool
) -> None:
    """Bring the moments of the steps in flight on ``stage`` up to date after :meth:`StepWorkers.went_by`: the starts of
    their forwards, or ``at_end`` the ends."""
    while len(moments) > older:
        moments.popleft()
    place = 3 * stage + (2 if at_end else 1)
    moments.extend(step[place] for step in times)
