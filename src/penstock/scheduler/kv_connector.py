"""Where KV blocks come from and go to beside the GPU's own pool: another instance, host memory, a store.

The verbs are those of vLLM's ``distributed/kv_transfer/kv_connector/v1/base.py: KVConnectorBase_V1`` on its
scheduler side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step


@dataclass(frozen=True, slots=True)
class Match:
    """``tokens`` more of a request can be had, beyond what the GPU's prefix cache holds. ``loads``: they arrive
    later, and the request waits for them with its blocks; otherwise they are there with the step that runs it. A load
    begins only if ``reserved_blocks`` stay free beside it."""

    tokens: int
    loads: bool = False
    reserved_blocks: int = 0


NO_MATCH = Match(0)
UNTIL_CALLED = Match(-1)
"""Not known yet. The connector, a :class:`CallsBack`, says when to ask again."""


@dataclass(slots=True)
class TransferReport:
    """What the workers saw in a step (vLLM's ``KVConnectorOutput``).

    ``loaded``: the load is over, on every stage; in ``discarded`` are those of them of which some part failed, so
    that all is computed here. ``unloadable``: a load failed, and the request ends with an error for it.
    ``first_tokens``: those of ``loaded`` whose next token was computed elsewhere and came with their KV.
    ``released``: ended requests whose blocks nobody needs any more, in the order in which they are freed.
    """

    loaded: list[RequestState] = field(default_factory=list)
    discarded: set[RequestState] = field(default_factory=set)
    first_tokens: set[RequestState] = field(default_factory=set)
    unloadable: list[RequestState] = field(default_factory=list)
    released: list[RequestState] = field(default_factory=list)


@runtime_checkable
class CallsBack(Protocol):
    """What a connector has that answers :data:`UNTIL_CALLED`."""

    def called(self, now: int) -> Sequence[RequestState]:
        """Requests to be asked for again, each named once; asked at every schedule()."""
        ...


class KVConnector(Protocol):
    """One instance's connector; it may keep state between calls.

    ``writes_blocks``: it fills blocks while steps run, so a block that a step in flight may still write is not
    given to anybody (``is_kv_consumer``). ``must_deliver``: what a request computed is handed over when it ends, so
    a preempted request's tokens in flight are dropped and computed again (``requires_kv_delivery``).
    """

    writes_blocks: bool
    must_deliver: bool

    def added(self, state: RequestState) -> None:
        """A request has come (``on_new_request``)."""
        ...

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """How many tokens beyond the first ``computed`` can be had for a request about to be admitted
        (``get_num_new_matched_tokens``). None: not known yet, ask again at the next schedule(); UNTIL_CALLED: once
        it is among those :class:`CallsBack` names."""
        ...

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        """The request was given its blocks, the first ``hit_blocks`` of them from the prefix cache;
        ``external_tokens`` of its tokens are the connector's to fill (``update_state_after_alloc``)."""
        ...

    def scheduled(self, step: Step, now: int) -> None:
        """A step was decided, empty ones too: what it saves and loads is known (``build_connector_meta``)."""
        ...

    def reported(self, now: int) -> TransferReport | None:
        """What the workers saw in the step whose tokens are about to be taken; None where it is nothing
        (``update_connector_output``)."""
        ...

    def finished(self, state: RequestState, now: int) -> bool:
        """The request has ended. True: its blocks are held until a report releases it (``request_finished``)."""
        ...

    def quiet_until_ns(self) -> int:
        """Until when turns with decodes alone give it nothing to tell the workers, and it has nothing to report,
        as long as no request comes, is admitted, or ends; 0 where the next turn may be another. Such turns may be
        taken without a word to it."""
        ...

    def has_work(self) -> bool:
        """Whether the engine has to go on for the connector alone (``has_pending_push_work``)."""
        ...
