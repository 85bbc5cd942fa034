"""A request while it is being served."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.recording.records import TokenTimes
    from penstock.scheduler.cohort import Cohort
    from penstock.scheduler.kv_cache import CachedBlock, OwnBlocks
    from penstock.scheduler.step import Step
    from penstock.workload.request import Request

Segment = tuple["TokenTimes", int, int]
"""Token times as a slice of a cohort's completion times: (times, start, stop)."""


class Outcome(IntEnum):
    """How a request left its instance."""

    FINISHED = 0
    HANDED_OFF = 1  # its prompt is computed, and another instance goes on with it
    ABORTED = 2  # its client has left
    FAILED = 3


class LoadTimes:
    """A load of ``tokens`` of KV from elsewhere: when it got its blocks, when the workers had reported it, and when
    the request could run for it; None where that did not come."""

    __slots__ = ("admitted_ns", "promoted_ns", "reported_ns", "tokens")

    def __init__(self, tokens: int, admitted_ns: int) -> None:
        self.tokens = tokens
        self.admitted_ns = admitted_ns
        self.reported_ns: int | None = None
        self.promoted_ns: int | None = None


class RequestState:
    """What the scheduler knows of one unfinished request.

    ``arrived_ns`` is when it came to this instance, ``request.arrival_ns`` when its user sent it; ``outcome`` says
    how it ended, once it has. ``num_tokens`` counts prompt and answer so far, ``num_computed`` those of them that
    steps have been given, and ``final_tokens`` is the count at which it finishes. ``held_blocks`` counts KV blocks
    while its prompt is being scheduled. ``order`` numbers admissions: running requests are scheduled in that order.
    ``load_order`` numbers loads of KV in the same way; ``external_tokens`` of its KV came from elsewhere, its first
    load of such is ``load``. ``released_ns`` is when its blocks were given up at its end. Tokens of steps up to number
    ``dropped_through`` are not delivered.

    While the request decodes in a cohort, everything that changes with its tokens is kept by the cohort. It then has
    ``offset + cohort.turn`` tokens, all but one computed (with nothing in flight), and the fields are stale: leaving
    the cohort brings ``num_tokens`` up to date.
    """

    __slots__ = (
        "arrived_ns",
        "cached_tokens",
        "cohort",
        "dropped_through",
        "eligible_at",
        "external_tokens",
        "final_tokens",
        "first_scheduled_ns",
        "first_token_ns",
        "hashed_blocks",
        "hashed_tokens",
        "held_blocks",
        "keys",
        "last_token_ns",
        "latest_number",
        "latest_step",
        "load",
        "load_order",
        "num_computed",
        "num_tokens",
        "offset",
        "order",
        "outcome",
        "own_blocks",
        "own_times",
        "placeholders",
        "preemptions",
        "released_ns",
        "request",
        "segment_start",
        "segments",
        "slot",
    )

    def __init__(self, request: Request, max_model_len: int, arrived_ns: int | None = None) -> None:
        self.request = request
        self.arrived_ns = request.arrival_ns if arrived_ns is None else arrived_ns
        self.outcome = Outcome.FINISHED
        self.num_tokens = request.input_tokens
        self.num_computed = 0
        self.final_tokens = min(request.input_tokens + request.output_tokens, max_model_len)
        self.held_blocks = 0
        self.order = -1
        self.preemptions = 0
        self.cached_tokens: int | None = None
        self.first_scheduled_ns: int | None = None
        self.first_token_ns: int | None = None
        self.last_token_ns = 0
        self.cohort: Cohort | None = None
        self.offset = 0
        self.segment_start = 0
        self.segments: list[Segment] = []
        # The latest step with a prefill chunk of this request, or, where it was preempted, with its token.
        self.latest_step: Step | None = None
        self.latest_number = 0
        self.slot: int | None = None
        self.hashed_blocks: list[CachedBlock] = []
        self.keys: list[int] = []
        self.own_blocks: OwnBlocks | None = None
        # Async scheduling only: tokens scheduled and not known yet, tokens whose full blocks are hashed, the
        # schedule() call from which the next token may be scheduled, and the times of all tokens.
        self.placeholders = 0
        self.hashed_tokens = 0
        self.eligible_at = 0
        self.own_times: array[int] | None = None
        # With a KV connector only.
        self.load_order = -1
        self.load: LoadTimes | None = None
        self.released_ns: int | None = None
        self.external_tokens = 0
        self.dropped_through = 0

    @property
    def tokens_so_far(self) -> int:
        """Prompt and answer so far, without what is in flight, in a cohort too."""
        return self.num_tokens if self.cohort is None else self.cohort.known_tokens(self)
