"""Watching a run from outside: frozen views of what happens, while it happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penstock.recording.records import Rejection
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
class TokensView:
    """What came back with a step that an instance has just taken: a token for each of ``requests``, in the order of
    admission. ``at_ns`` is when the engine had them, ``schedule_ns`` when the step was scheduled. As vLLM counts them,
    ``contexts`` of its requests had prompt left to compute, and computed ``context_tokens`` in it; the others,
    ``generations``, computed ``generation_tokens``."""

    instance: int
    schedule_ns: int
    at_ns: int
    requests: tuple[int, ...]
    contexts: int
    context_tokens: int
    generations: int
    generation_tokens: int


@dataclass(frozen=True, slots=True)
class RequestView:
    """A request that has left its instance. Times are None where it never came so far, and so are
    ``cached_tokens``, its hit in the prefix cache at its first admission."""

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
    cached_tokens: int | None


class Observer:
    """Derive from it and override what is of interest. Called while the simulation stands at that moment: an
    observer may call ``submit`` and ``abort`` of the simulation, at its time or later."""

    def step_scheduled(self, step: StepView) -> None:
        """An instance has scheduled a step with tokens."""

    def tokens_taken(self, tokens: TokensView) -> None:
        """An instance has taken the tokens of a step. Requests that end with it are told of afterwards."""

    def request_ended(self, request: RequestView) -> None:
        """A request has finished, or was aborted."""

    def request_rejected(self, rejection: Rejection) -> None:
        """A request has arrived that can never run."""


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
        cached_tokens=state.cached_tokens,
    )


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A step on its way: when it was scheduled, and which of its requests may have a token with it."""

    schedule_ns: int
    sampling: tuple[RequestState, ...]
    contexts: int
    context_tokens: int
    generations: int
    generation_tokens: int


class StepObservers:
    """A :class:`~penstock.engine.replica.Watcher` that shows the steps of one instance to observers; ``stand_at``
    is told of the time first."""

    def __init__(self, instance: int, observers: Sequence[Observer], stand_at: Callable[[int], None]) -> None:
        self._instance = instance
        self._observers = observers
        self._stand_at = stand_at
        self._in_flight: dict[Step, _InFlight] = {}
        # Tokens, prompt included, that observers know of.
        self._known: dict[RequestState, int] = {}

    def added(self, state: RequestState, now: int) -> None:
        """Nothing to show."""

    def scheduled(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.replica.Watcher`."""
        if not step.tokens:
            return
        contents = step.contents()
        self._send_off(step, contents, now)
        view = StepView(
            instance=self._instance,
            schedule_ns=now,
            scheduled=tuple((state.request.index, new, computed) for state, new, computed in contents),
            preempted=tuple(state.request.index for state in step.preempted),
            done_ns=step.known_done_ns,
        )
        self._stand_at(now)
        for observer in self._observers:
            observer.step_scheduled(view)

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        """See :class:`~penstock.engine.replica.Watcher`. A request that ends here is told of by the simulation."""
        sent = self._in_flight.pop(step, None)
        if sent is None:
            return
        known = self._known
        requests: list[int] = []
        for state in sent.sampling:
            tokens = state.tokens_so_far
            if tokens > known.get(state, tokens):
                requests.append(state.request.index)
                known[state] = tokens
        for state in ended:
            known.pop(state, None)
        if len(known) > 2 * len(sent.sampling) + 1024:
            self._known = {
                state: tokens for state, tokens in known.items() if state.outcome is not Outcome.ABORTED
            }
        view = TokensView(
            instance=self._instance,
            schedule_ns=sent.schedule_ns,
            at_ns=now,
            requests=tuple(requests),
            contexts=sent.contexts,
            context_tokens=sent.context_tokens,
            generations=sent.generations,
            generation_tokens=sent.generation_tokens,
        )
        self._stand_at(now)
        for observer in self._observers:
            observer.tokens_taken(view)

    def _send_off(self, step: Step, contents: Sequence[tuple[RequestState, int, int]], now: int) -> None:
        sampling = dict.fromkeys(step.sampling)
        contexts = context_tokens = 0
        taken: list[RequestState] = []
        for state, new, computed in contents:
            if state.cohort is not None or state in sampling:
                taken.append(state)
                self._known.setdefault(state, state.tokens_so_far)
            if state.first_token_ns is None and computed < state.request.input_tokens:
                contexts += 1
                context_tokens += new
        self._in_flight[step] = _InFlight(
            now,
            tuple(taken),
            contexts,
            context_tokens,
            len(contents) - contexts,
            step.tokens - context_tokens,
        )
