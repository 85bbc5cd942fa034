"""A simulation that runs in real time: requests go in as they come, tokens come out when simulated time says so."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.engine.observer import Observer, RequestView, TokensView
from penstock.engine.simulation import Simulation
from penstock.errors import NoProgressError
from penstock.recording.records import Rejection
from penstock.server.alarm import Alarm
from penstock.server.clock import SimulatedClock
from penstock.server.recipient import Recipient
from penstock.units import NEVER_NS, NS_PER_MS, NS_PER_S
from penstock.workload.request import Request

FORGET_EVERY = 4096
"""Requests that end before the simulation drops what it has recorded."""
_BEHIND_NS = 20 * NS_PER_MS
"""Of the machine. A server that is so late writes each client's tokens of several steps at once, as vLLM's does."""


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
    """Moves ``simulation`` along with ``clock`` on the running event loop, and hands its tokens to recipients.

    ``keeps_record`` leaves what has ended in the simulation, for a record of the whole session; without it memory
    stays bounded. ``failure`` says why the simulation cannot go on, once it cannot.
    """

    def __init__(self, simulation: Simulation, clock: SimulatedClock, *, keeps_record: bool = False) -> None:
        self.simulation = simulation
        self.clock = clock
        self.failure: str | None = None
        self.listeners: list[ArrivalListener] = []
        self._keeps_record = keeps_record
        self._open: dict[int, tuple[Recipient, int]] = {}
        self._ended = 0
        self._alarm = Alarm(self.tick)
        self._holds_before_ns = 0
        self._held_back: dict[Recipient, None] = {}
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

    def submit(
        self, wanted: Sequence[Wanted], recipient: Recipient, received_ns: int | None = None
    ) -> list[int]:
        """Let requests arrive; returns their numbers. Tokens of ``wanted[i]`` come to ``recipient`` as sequence i.

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
            self._open[index] = recipient, place
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
        if self.failure is not None:
            return
        simulation, now_ns = self.simulation, self.clock.now_ns()
        self._holds_before_ns = now_ns - round(_BEHIND_NS * self.clock.scale)
        try:
            # Not beyond what is due: a request that is being read may yet arrive between that and now.
            while (next_ns := simulation.next_event_ns()) <= now_ns:
                simulation.advance(next_ns + 1)
        except NoProgressError as error:
            self._fail(str(error))
            return
        except Exception as error:  # a fault of the simulator's: nobody is left waiting for it
            self._fail(f"the simulation has gone wrong: {error!r}")
            raise
        finally:
            self._hand_on()
        if self._ended >= FORGET_EVERY and not self._keeps_record:
            self._ended = 0
            simulation.forget()
        if next_ns == NEVER_NS:
            self._alarm.unset()
        else:
            self._alarm.set(round(self.clock.seconds_until(next_ns) * NS_PER_S))

    def _hand_on(self) -> None:
        """Pass on the tokens that were held back."""
        held_back, self._held_back = self._held_back, {}
        for recipient in held_back:
            recipient.flush()

    def stop(self) -> None:
        """Stand still: requests that are open are aborted, and their clients told so."""
        self._move_to_now()
        self._alarm.close()
        simulation = self.simulation
        for index, (recipient, _) in self._open.items():
            recipient.fail("the server is shutting down")
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
            self._hand_on()

    def _fail(self, reason: str) -> None:
        self.failure = reason
        self._alarm.unset()
        for recipient, _ in self._open.values():
            recipient.fail(reason)
        self._open.clear()

    # --- what the simulation tells ------------------------------------------------------------------------------

    def tokens_taken(self, tokens: TokensView) -> None:
        """See :class:`~penstock.engine.observer.Observer`."""
        if tokens.instance in self._silent:
            return
        opened = self._open
        due_ns = tokens.at_ns
        is_behind = due_ns < self._holds_before_ns
        # One write after another: the newest first, whose clients have seen nothing yet.
        for request in reversed(tokens.requests):
            entry = opened.get(request)
            if entry is None:
                continue
            recipient, sequence = entry
            recipient.put(sequence, due_ns)
            if is_behind:
                self._held_back[recipient] = None
            else:
                recipient.flush()

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
