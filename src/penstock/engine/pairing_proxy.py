"""Who takes requests in where the prefill side pushes: both sides get them at once, under one number.

As SGLang's ``mini_lb`` and its router do (``bootstrap_room``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from penstock.engine.proxy import Choose, Deliver
from penstock.kv_transfer.push import PushReceiver, PushSender
from penstock.scheduler.request_state import RequestState
from penstock.workload.request import Request


class PairingProxy:
    """A :class:`~penstock.engine.proxy.TakesIn`. It holds no request between two instances."""

    def __init__(
        self,
        *,
        choose_prefill: Choose,
        choose_decode: Choose,
        serves_whole: Callable[[Request], int | None],
        deliver: Deliver,
        senders: Mapping[int, PushSender],
        receivers: Mapping[int, PushReceiver],
    ) -> None:
        self._choose_prefill = choose_prefill
        self._choose_decode = choose_decode
        self._serves_whole = serves_whole
        self._deliver = deliver
        self._senders = senders
        self._receivers = receivers

    def arrive(self, request: Request) -> int:
        """See :class:`~penstock.engine.proxy.TakesIn`."""
        alone = self._serves_whole(request)
        if alone is not None:
            return self._deliver(alone, request, request.arrival_ns, -1)
        target = self._deliver(self._choose_decode(request), request, request.arrival_ns, -1)
        prompt = replace(request, output_tokens=1)
        source = self._deliver(self._choose_prefill(request), prompt, request.arrival_ns, -1)
        self._receivers[target].expect(request.index, source)
        self._senders[source].keep_for_reader(request.index, target)
        return source

    def takes_over(self, state: RequestState, at_ns: int) -> bool:
        """See :class:`~penstock.engine.proxy.TakesIn`. The decode side has had the request all along."""
        return True

    def ended(self, state: RequestState) -> None:
        """See :class:`~penstock.engine.proxy.TakesIn`."""

    def give_up(self, request_index: int) -> tuple[Request, int] | None:
        """See :class:`~penstock.engine.proxy.TakesIn`."""
        return None
