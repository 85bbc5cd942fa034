"""A request while it is being served."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.scheduler.cohort import Cohort
    from penstock.scheduler.kv_cache import CachedBlock, OwnBlocks
    from penstock.scheduler.step import Step
    from penstock.workload.request import Request

Segment = tuple["array[int]", int, int]
"""Token times as a slice of a cohort's completion times: (times, start, stop)."""


class Outcome(IntEnum):
    """How a request left its instance."""

    FINISHED = 0
    HANDED_OFF = 1  # its prompt is computed, and another instance goes on with it
    ABORTED = 2  # its client has left
    FAILED = 3


class RequestState:
    """What the scheduler knows of one unfinished request.

    ``arrived_ns`` is when it came to this instance, ``request.arrival_ns`` when its user sent it; ``outcome`` says
    how it ended, once it has. ``num_tokens`` counts prompt and answer so far, ``num_computed`` those of them that
    steps have been given, and ``final_tokens`` is the count at which it finishes. ``held_blocks`` counts KV blocks
    while its prompt is being scheduled. ``order`` numbers admissions: running requests are scheduled in that order.

    While the request decodes in a cohort, everything that changes with its tokens is kept by the cohort. It then has
    ``offset + cohort.turn`` tokens, all but one computed (with nothing in flight), and the fields are stale: leaving
    the cohort brings ``num_tokens`` up to date.
    """

    __slots__ = (
        "arrived_ns",
        "cached_tokens",
        "cohort",
        "eligible_at",
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
        "num_computed",
        "num_tokens",
        "offset",
        "order",
        "outcome",
        "own_blocks",
        "own_times",
        "placeholders",
        "preemptions",
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
