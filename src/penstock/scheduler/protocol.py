"""What the engine needs of a scheduler. It looks at nothing else of it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from penstock.recording.records import Cause
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step


class SchedulerStatus:
    """How a scheduler stands. ``cause``, the number of a Cause, says why its latest schedule() could take no more;
    requests ``running`` and ``waiting``, ``loading`` of those waiting for KV from elsewhere; ``transferring``: some KV
    is on its way, in or out; ``deferred``: it is not known yet what of a waiting request's KV can be had; KV blocks
    ``free_blocks`` of ``usable_blocks``. ``stuck`` is a request that can never run on, whatever the others do."""

    __slots__ = (
        "cause",
        "deferred",
        "free_blocks",
        "loading",
        "running",
        "stuck",
        "transferring",
        "usable_blocks",
        "waiting",
    )

    def __init__(self, usable_blocks: int) -> None:
        self.cause = int(Cause.IDLE)
        self.running = 0
        self.waiting = 0
        self.loading = 0
        self.transferring = False
        self.deferred = False
        self.free_blocks = usable_blocks
        self.usable_blocks = usable_blocks
        self.stuck: RequestState | None = None


class EngineScheduler(Protocol):
    """Decides steps. Knows no time but what it is told; steps come back in the order in which they left.

    ``token_gaps`` are pairs (gap_ns, how many): all inter-token latencies so far, without a list per request.
    ``preemptions``, ``cohort_turns`` (decided for many requests at once) and ``exact_turns`` (request by request)
    count over the run.
    """

    token_gaps: array[int]
    preemptions: int
    cohort_turns: int
    exact_turns: int

    def add(self, state: RequestState, now: int) -> None:
        """A request has come."""
        ...

    def abort(self, state: RequestState, now: int) -> bool:
        """A request's client has left: give everything up, drop the tokens in flight. False if the request is not
        here (any more)."""
        ...

    def has_work(self) -> bool:
        """Whether schedule() has to be called: unfinished requests, or news for the workers."""
        ...

    def schedule(self, now: int) -> Step:
        """Decide the next step; it may be empty."""
        ...

    def update(self, step: Step, now: int) -> Sequence[RequestState]:
        """The oldest step is back: take its tokens. Returns the requests that left with it, each with its
        ``outcome``, in the order of the step."""
        ...

    def states(self) -> Iterable[RequestState]:
        """All requests that have not ended."""
        ...

    def first_in_line(self) -> RequestState:
        """Who is tried first at the next schedule(), for a message when nobody can run; somebody must be here."""
        ...

    def status(self) -> SchedulerStatus:
        """How it stands: always the same object, the scheduler's own. schedule() brings it up to date too."""
        ...
