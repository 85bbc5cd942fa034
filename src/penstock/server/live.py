"""A simulation that runs in real time: requests go in as they come, tokens come out when simulated time says so."""

from __future__ import annotations

import asyncio
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.engine.observer import Observer, RequestView, TokensView
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError
from penstock.recording.records import Rejection
from penstock.server.clock import SimulatedClock
from penstock.server.mailbox import Mailbox
from penstock.units import NEVER_NS
from penstock.workload.request import Request

FORGET_EVERY = 4096
"""Requests that end before the simulation drops what it has recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One answer that is asked for: a prompt's token ids and the ids that will be generated. The rest is what the
    client said, for whoever counts: ``n`` answers to the same prompt, ``max_tokens``, and why this one will end."""

    input_ids: array[int]
    output_ids: array[int]
    finish_reason: str = "length"
    n: int = 1
    max_tokens: int = 0
    priority: int = 0
    model: str | None = None


class ArrivalListener(Protocol):
    """Is told of requests as they come, before anything happens to them."""

    def arrived(self, request: Request, wanted: Wanted) -> None:
        """A request has arrived, at ``request.arrival_ns``."""
        ...


class LiveCluster(Observer):
    """Moves ``simulation`` along with ``clock`` on the running event loop, and hands its tokens to mailboxes.

    ``keeps_record`` leaves what has ended in the simulation, for a record of the whole session; without it memory
    stays bounded. ``failure`` says why the simulation cannot go on, once it cannot.
    """

    def __init__(self, simulation: Simulation, clock: SimulatedClock, *, keeps_record: bool = False) -> None:
        self.simulation = simulation
        self.clock = clock
        self.failure: str | None = None
        self.listeners: list[ArrivalListener] = []
        self._keeps_record = keeps_record
        self._open: dict[int, tuple[Mailbox, int]] = {}
        self._ended = 0
        self._timer: asyncio.Handle | None = None
        # A prefill instance's token goes to the decode instance, not to the client.
        self._silent = frozenset(
            instance.index for instance in simulation.cluster.instances if instance.pd_type == "prefill"
        )
        simulation.observe(self)

    @property
    def num_open(self) -> int:
        """Requests that have not ended."""
        return len(self._open)

    @property
    def num_waiting(self) -> int:
        """Requests not admitted yet, over all instances."""
        return sum(replica.num_waiting for replica in self.simulation.instances)

    def submit(self, wanted: Sequence[Wanted], mailbox: Mailbox, received_ns: int | None = None) -> list[int]:
        """Let requests arrive; returns their numbers. Tokens of ``wanted[i]`` come to ``mailbox`` as sequence i.

        ``received_ns``: when they reached the server, in simulated time, None for now. Reading and tokenizing them has
        taken a while since, which belongs to this server and not to the simulated one. They arrive then, or after what
        the engines have done meanwhile.
        """
        simulation = self.simulation
        numbers: list[int] = []
        arrival_ns = max(self.clock.now_ns() if received_ns is None else received_ns, simulation.now_ns)
        for place, one in enumerate(wanted):
            index = simulation.next_index
            request = Request(
                index,
                arrival_ns,
                len(one.input_ids),
                len(one.output_ids),
                one.input_ids,
                one.output_ids,
                priority=one.priority,
                model=one.model,
            )
            self._open[index] = mailbox, place
            for listener in self.listeners:
                listener.arrived(request, one)
            simulation.submit(request)
            numbers.append(index)
        self.tick()
        return numbers

    def abort(self, numbers: Sequence[int]) -> None:
        """The client of these requests has left; those that have ended are passed over."""
        self._move_to_now()
        for index in numbers:
            if self._open.pop(index, None) is not None and self.failure is None:
                self.simulation.abort(index)
        self.tick()

    def tick(self) -> None:
        """Let everything happen that is due, and come back when something is due next."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.failure is not None:
            return
        simulation, now_ns = self.simulation, self.clock.now_ns()
        try:
            # Not beyond what is due: a request that is being read may yet arrive between that and now.
            while (next_ns := simulation.next_event_ns()) <= now_ns:
                simulation.advance(next_ns + 1)
        except NoProgressError as error:
            self._fail(str(error))
            return
        if self._ended >= FORGET_EVERY and not self._keeps_record:
            self._ended = 0
            simulation.forget()
        if next_ns == NEVER_NS:
            return
        loop = asyncio.get_running_loop()
        wait_s = self.clock.seconds_until(next_ns)
        if wait_s <= 0:
            self._timer = loop.call_soon(self.tick)
        else:
            self._timer = loop.call_later(math.ceil(wait_s * 1000) / 1000, self.tick)

    def stop(self) -> None:
        """Stand still: requests that are open are aborted, and their clients told so."""
        self._move_to_now()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        simulation = self.simulation
        for index, (mailbox, _) in self._open.items():
            mailbox.fail("the server is shutting down")
            if self.failure is None:
                simulation.abort(index)
        self._open.clear()
        while self.failure is None and (next_ns := simulation.next_event_ns()) < NEVER_NS:
            simulation.advance(next_ns + 1)  # until the engines have taken note
        self.failure = self.failure or "the server is shutting down"

    def _move_to_now(self) -> None:
        """Let everything happen that is due; it is then now for the simulation too."""
        self.tick()
        if self.failure is None:
            self.simulation.advance(max(self.clock.now_ns(), self.simulation.now_ns))

    def _fail(self, reason: str) -> None:
        self.failure = reason
        for mailbox, _ in self._open.values():
            mailbox.fail(reason)
        self._open.clear()

    # --- what the simulation tells ------------------------------------------------------------------------------

    def tokens_taken(self, tokens: TokensView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        if tokens.instance in self._silent:
            return
        opened = self._open
        due_ns = tokens.at_ns
        for request in tokens.requests:
            entry = opened.get(request)
            if entry is not None:
                entry[0].put(entry[1], due_ns)

    def request_ended(self, request: RequestView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        self._ended += 1
        entry = self._open.pop(request.request, None)
        if entry is not None and request.outcome != "finished":
            entry[0].fail(f"the request was {request.outcome}")

    def request_rejected(self, rejection: Rejection) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        self._ended += 1
        entry = self._open.pop(rejection.request, None)
        if entry is not None:
            entry[0].fail(rejection.reason)
