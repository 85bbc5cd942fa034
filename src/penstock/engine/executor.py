"""What happens to a step after schedule(): the seam between the engine and the workers.

vLLM's ``v1/executor/abstract.py: Executor.execute_model``, with the time it takes in place of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from penstock.scheduler.step import Step

Arrived = Callable[[Step, Sequence[int]], None]
"""Called once the way of a step is known that was not known at its launch: the step, with its times filled in, and
``arrive, start, end`` of every stage (nothing for an empty step)."""


Started = Callable[[Step, int, int, int], None]
"""Called with a step, a stage, and when its forward starts and ends there, in the order of the steps on each stage."""


HoldBack = Callable[[Step, int, int], int]
"""Asked with a step, a stage, and when the stage could start it; returns when it may."""


class Executor(Protocol):
    """The stages of one replica. ``stage_free_ns[s]`` is when stage s could start another step, as far as known."""

    pp_size: int
    stage_free_ns: list[int]

    def launch(self, step: Step, entry_ns: int) -> Sequence[int] | None:
        """Send a step off that is ready to enter the first stage at ``entry_ns``.

        Fills in ``step.end_ns`` and ``step.done_ns`` and returns ``arrive, start, end`` of every stage, one after
        the other, valid until the next call; or leaves both at UNKNOWN_NS and returns None: then what was given to
        :meth:`when_arrived` is called as soon as they are known.
        """
        ...

    def pass_empty(self, step: Step, now: int) -> None:
        """Let through a step without tokens, at ``now``: it visits no stage, and its result follows that of the steps
        before it. Fills in ``step.done_ns``, or leaves it at UNKNOWN_NS as :meth:`launch` does."""
        ...

    def when_arrived(self, arrived: Arrived) -> None:
        """Whom to tell of steps whose way becomes known after their launch."""
        ...


class StageExecutor(Executor, Protocol):
    """An executor that tells of single stages as they come to a step, for workers that do more than compute
    (:class:`~penstock.kv_transfer.step_workers.StepWorkers`)."""

    def when_started(self, started: Started) -> None:
        """Whom to tell of each step's forward on each stage, as soon as its times are known."""
        ...

    def ask_before_start(self, hold_back: HoldBack) -> None:
        """Whom to ask before each step's forward on each stage."""
        ...
