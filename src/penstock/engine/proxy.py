"""The proxy in front of prefill and decode instances: who computes a prompt, and who goes on with it.

As vLLM's (``examples/online_serving/disaggregated_serving``): the prompt goes to a prefill instance with one token
to generate; when the answer is back it goes on to a decode instance, with where its KV lies.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from penstock.kv_transfer.pull import PullConnector
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.workload.request import Request

Choose = Callable[[Request], int]
Deliver = Callable[[int, Request, int, int], int]
"""Given an instance, the request as it gets it, when, and which engine sends it on at that very instant (-1: none);
returns the instance that gets it, which is another rank
where ranks are chosen by their front-ends."""


class TakesIn(Protocol):
    """Who sends the two parts of requests to their instances."""

    def arrive(self, request: Request) -> int:
        """A request comes. Returns who computes its prompt."""
        ...

    def takes_over(self, state: RequestState, at_ns: int) -> bool:
        """A request has ended on the prefill side. Whether another instance goes on with it, or has it anyway."""
        ...

    def ended(self, state: RequestState) -> None:
        """A request has ended for good."""
        ...

    def give_up(self, request_index: int) -> tuple[Request, int] | None:
        """The client of a request leaves while no instance has it: returns it, and where its prompt was computed;
        None if it is not here."""
        ...


class Proxy:
    """A :class:`TakesIn`, and an :class:`~penstock.engine.kernel.Actor`. ``delay_ns`` passes from an answer to the
    request that it makes.

    ``choose_prefill`` and ``choose_decode`` name an instance each time they are asked; ``connectors`` are those of
    all instances. ``serves_whole`` names the decode instance that serves an arriving request alone, or None where its
    prompt goes to another; without it every prompt does. ``prefilled_at`` and ``sent_ns`` say of each request so far
    where its prompt was computed and when it was sent to its decode instance.
    """

    def __init__(
        self,
        *,
        choose_prefill: Choose,
        choose_decode: Choose,
        serves_whole: Callable[[Request], int | None] = lambda request: None,
        deliver: Deliver,
        connectors: Mapping[int, PullConnector],
        delay_ns: int,
        wake: Callable[[int], None],
    ) -> None:
        self.next_ns: int | None = None
        self.prefilled_at: dict[int, int] = {}
        self.decoded_at: dict[int, int] = {}
        self.sent_ns: dict[int, int] = {}
        self._choose_prefill = choose_prefill
        self._choose_decode = choose_decode
        self._serves_whole = serves_whole
        self._deliver = deliver
        self._connectors = connectors
        self._delay_ns = delay_ns
        self._wake = wake
        self._requests: dict[int, Request] = {}
        self._answers: list[tuple[int, int, Request]] = []
        self._number = 0

    def arrive(self, request: Request) -> int:
        """A request comes. Returns who computes its prompt."""
        alone = self._serves_whole(request)
        if alone is not None:
            return self._send_to(alone, request, request.arrival_ns)
        prompt = replace(request, output_tokens=1)
        index = self._deliver(self._choose_prefill(request), prompt, request.arrival_ns, -1)
        self._connectors[index].keep_for_reader(request.index)
        self.prefilled_at[request.index] = index
        self._requests[request.index] = request
        return index

    def arrive_directly(self, request: Request) -> int:
        """A request comes that one decode instance serves whole. Returns which."""
        return self._send(request, request.arrival_ns)

    def takes_over(self, state: RequestState, at_ns: int) -> bool:
        """See :class:`TakesIn`."""
        if state.outcome is not Outcome.FINISHED:
            return False
        self.answered(state, at_ns)
        return True

    def answered(self, state: RequestState, now: int) -> None:
        """A prompt is computed."""
        self._number += 1
        at_ns = now + self._delay_ns
        heapq.heappush(self._answers, (at_ns, self._number, self._requests.pop(state.request.index)))
        if self.next_ns is None or at_ns < self.next_ns:
            self.next_ns = at_ns
            self._wake(at_ns)

    def ended(self, state: RequestState) -> None:
        """A request has ended, at either side."""
        self._requests.pop(state.request.index, None)

    def give_up(self, request_index: int) -> tuple[Request, int] | None:
        """The client of a request leaves while it is here, between two instances: no decode instance hears of it, and
        the blocks of its prompt go when their lease ends. Returns it, and where its prompt was computed; None if it
        is not here."""
        for place, (_, _, request) in enumerate(self._answers):
            if request.index == request_index:
                del self._answers[place]
                heapq.heapify(self._answers)
                self.next_ns = self._answers[0][0] if self._answers else None
                return request, self.prefilled_at[request_index]
        return None

    def run_until(self, limit_ns: int) -> None:
        """See :class:`~penstock.engine.kernel.Actor`. One instant at a time: what it sends may be acted on."""
        answers = self._answers
        limit_ns = min(limit_ns, answers[0][0] + 1) if answers else limit_ns
        while answers and answers[0][0] < limit_ns:
            at_ns, _, request = heapq.heappop(answers)
            self._send(request, at_ns)
        self.next_ns = answers[0][0] if answers else None

    def _send(self, request: Request, now: int) -> int:
        return self._send_to(self._choose_decode(request), request, now)

    def _send_to(self, index: int, request: Request, now: int) -> int:
        source = self.prefilled_at.get(request.index)
        index = self._deliver(index, request, now, -1 if source is None or self._delay_ns else source)
        self.decoded_at[request.index] = index
        self.sent_ns[request.index] = now
        if source is not None:
            self._connectors[index].expect(request.index, source)
        return index
