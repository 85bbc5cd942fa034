"""Where KV blocks come from and go to beside the GPU's own pool: another instance, host memory, a store.

The verbs are those of vLLM's ``distributed/kv_transfer/kv_connector/v1/base.py: KVConnectorBase_V1`` on its
scheduler side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step


@dataclass(frozen=True, slots=True)
class Match:
    """``tokens`` more of a request can be had, beyond what the GPU's prefix cache holds. ``loads``: they arrive
    later, and the request waits for them with its blocks; otherwise they are there with the step that runs it."""

    tokens: int
    loads: bool = False


NO_MATCH = Match(0)


class KVConnector(Protocol):
    """One instance's connector; it may keep state between calls."""

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """How many tokens beyond the first ``computed`` can be had for a request about to be admitted
        (``get_num_new_matched_tokens``). None: not known yet, ask again at the next schedule()."""
        ...

    def allocated(self, state: RequestState, blocks: int, external_tokens: int) -> None:
        """The request was given ``blocks`` blocks, ``external_tokens`` of its tokens are the connector's to fill
        (``update_state_after_alloc``)."""
        ...

    def scheduled(self, step: Step, now: int) -> None:
        """A step was decided, empty ones too: what it saves and loads is known (``build_connector_meta``)."""
        ...

    def loaded(self, now: int) -> list[RequestState]:
        """The requests whose loads have been reported since the last call (``update_connector_output``)."""
        ...

    def finished(self, state: RequestState, now: int) -> bool:
        """The request has ended. True: its blocks are held until :meth:`released` names it
        (``request_finished``)."""
        ...

    def released(self, now: int) -> list[RequestState]:
        """The ended requests whose blocks were held and can be freed."""
        ...
