"""Watching a run from outside: frozen views of what happens, while it happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step


@dataclass(frozen=True, slots=True)
class StepView:
    """A step that an instance has just scheduled.

    ``scheduled`` is (request, new tokens, tokens computed before) of each in it, in the order of admission;
    ``preempted`` are the requests that lost their blocks for it. ``done_ns`` is when its tokens come back, None
    where that depends on others.
    """

    instance: int
    schedule_ns: int
    scheduled: tuple[tuple[int, int, int], ...]
    preempted: tuple[int, ...]
    done_ns: int | None


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request that has left its instance. Times are None where it never came so far."""

    request: int
    instance: int
    outcome: str
    input_tokens: int
    output_tokens: int
    arrival_ns: int
    first_scheduled_ns: int | None
    first_token_ns: int | None
    end_ns: int
    preemptions: int


class Observer:
    """Derive from it and override what is of interest. Called while the simulation stands at that moment: an
    observer may call ``submit`` and ``abort`` of the simulation, at its time or later."""

    def step_scheduled(self, step: StepView) -> None:
        """An instance has scheduled a step with tokens."""

    def request_ended(self, request: RequestView) -> None:
        """A request has finished, or was aborted."""


def view_of_request(instance: int, state: RequestState, end_ns: int) -> RequestView:
    """What an observer sees of a request that has left."""
    request = state.request
    return RequestView(
        request=request.index,
        instance=instance,
        outcome=Outcome(state.outcome).name.lower(),
        input_tokens=request.input_tokens,
        output_tokens=state.num_tokens - request.input_tokens,
        arrival_ns=request.arrival_ns,
        first_scheduled_ns=state.first_scheduled_ns,
        first_token_ns=state.first_token_ns,
        end_ns=end_ns,
        preemptions=state.preemptions,
    )


class StepObservers:
    """A :class:`~penstock.engine.replica.Watcher` that shows the steps of one instance to observers; ``stand_at``
    is told of the time first."""

    def __init__(self, instance: int, observers: Sequence[Observer], stand_at: Callable[[int], None]) -> None:
        self._instance = instance
        self._observers = observers
        self._stand_at = stand_at

    def added(self, state: RequestState, now: int) -> None:
        """Nothing to show."""

    def scheduled(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.replica.Watcher`."""
        if not step.tokens:
            return
        view = StepView(
            instance=self._instance,
            schedule_ns=now,
            scheduled=tuple((state.request.index, new, computed) for state, new, computed in step.contents()),
            preempted=tuple(state.request.index for state in step.preempted),
            done_ns=step.known_done_ns,
        )
        self._stand_at(now)
        for observer in self._observers:
            observer.step_scheduled(view)

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        """Nothing to show: the simulation tells of requests that end."""
