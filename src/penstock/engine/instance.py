"""What a simulation asks of an instance that serves requests, whoever takes its turns."""

from __future__ import annotations

from typing import Protocol

from penstock.scheduler.request_state import RequestState
from penstock.spec.options import SchedulerOptions
from penstock.units import Int64Array


class Instance(Protocol):
    """An :class:`~penstock.engine.kernel.Actor` that gets requests. With ``stops_on_end`` a call of :meth:`run_until`
    returns when a request has ended, so that what this releases can arrive before the next turn."""

    index: int
    options: SchedulerOptions
    next_ns: int | None
    stops_on_end: bool

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests routed here and not admitted."""
        ...

    @property
    def max_num_seqs(self) -> int:
        """How many requests may run at once."""
        ...

    @property
    def outstanding_tokens(self) -> int:
        """Input and output tokens of all requests sent here and not finished."""
        ...

    @property
    def usable_blocks(self) -> int:
        """KV blocks that requests can have."""
        ...

    @property
    def open_since_ns(self) -> int:
        """When the oldest turn was scheduled that the sinks have not got; NEVER_NS if there is none."""
        ...

    @property
    def last_stage_ns(self) -> int:
        """When the last of its stages is free."""
        ...

    def deliver(self, state: RequestState, by: int = -1) -> None:
        """A request arrives; ``by`` is the instance that sends it on at this very instant, -1 if none does."""
        ...

    def run_until(self, limit_ns: int) -> None:
        """Process all events before ``limit_ns``."""
        ...

    def cancel(self, request_index: int, now: int) -> bool:
        """The client of a request has left; False if the request is not here."""
        ...

    def expect(self, at_ns: int, by: int = -1) -> None:
        """Something happens at ``at_ns`` that the engine may be waiting for; where another engine does it at that very
        instant, ``by`` is its number."""
        ...

    def catch_up(self, now: int) -> None:
        """Take the turns before ``now`` that were left out."""
        ...

    def flush(self) -> None:
        """Hand all complete turns to the sinks."""
        ...

    def token_gaps(self) -> Int64Array:
        """Pairs (gap_ns, how many), shape (pairs, 2), a copy: all inter-token latencies so far."""
        ...

    def forget_gaps(self) -> None:
        """Drop them."""
        ...
