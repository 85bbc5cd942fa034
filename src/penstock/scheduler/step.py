"""One micro-batch: what a call of schedule() decided."""

from __future__ import annotations

from penstock.scheduler.cohort import Cohort
from penstock.scheduler.request_state import RequestState


class Step:
    """The decodes of one cohort and the prefill chunks beside them; without either, an empty step.

    ``members`` counts the cohort's decodes, ``chunks`` lists (request, new tokens, computed before) of all
    others. ``decodes``, ``prefills`` and the contexts are the step as the cost model sees it: a chunk of one
    token is a decode there. ``graduates`` are the requests whose last chunk this is, ``late`` those preempted
    since with their token in flight (and whether as members of the cohort); the tokens of both come with the
    step's result. The first stage cannot begin before ``not_before_ns``: it needs tokens that are still being
    computed then. ``number`` counts a scheduler's steps from 1. ``end_ns`` is when it leaves the last stage,
    ``done_ns`` when the engine can have its result. A step that has come back is used again.
    """

    __slots__ = (
        "chunks",
        "cohort",
        "decode_context",
        "decodes",
        "done_ns",
        "end_ns",
        "graduates",
        "late",
        "max_context",
        "members",
        "min_context",
        "not_before_ns",
        "number",
        "preempted",
        "prefill_context",
        "prefill_tokens",
        "prefills",
        "sampled",
        "tokens",
    )

    def __init__(self) -> None:
        self.cohort: Cohort | None = None
        self.members = 0
        self.chunks: list[tuple[RequestState, int, int]] = []
        self.graduates: list[RequestState] = []
        self.late: list[tuple[RequestState, bool]] = []
        self.preempted: list[RequestState] = []
        self.tokens = 0
        self.sampled = 0
        self.decodes = 0
        self.decode_context = 0
        self.min_context = 0
        self.max_context = 0
        self.prefills = 0
        self.prefill_tokens = 0
        self.prefill_context = 0
        self.done_ns = 0
        self.end_ns = 0
        self.not_before_ns = 0
        self.number = 0

    def clear(self) -> None:
        """Make it an empty step again."""
        self.cohort = None
        self.members = self.tokens = self.sampled = 0
        self.decodes = self.decode_context = self.min_context = self.max_context = 0
        if self.chunks or self.preempted or self.late:
            self.chunks.clear()
            self.graduates.clear()
            self.late.clear()
            self.preempted.clear()
            self.prefills = self.prefill_tokens = self.prefill_context = 0
            self.not_before_ns = 0

    def add_members(self, cohort: Cohort) -> None:
        """Add all decodes of a ready cohort."""
        members = cohort.size
        computed = cohort.turn - 1
        offsets = cohort.offsets
        self.cohort = cohort
        self.members = members
        self.tokens += members
        self.sampled += members
        self.decodes = members
        self.decode_context = cohort.offset_sum + members * computed
        self.min_context = offsets[0] + computed
        self.max_context = offsets[-1] + computed

    def add_chunk(self, state: RequestState, new: int, computed: int) -> None:
        """Add a prefill chunk: ``new`` tokens after ``computed`` earlier ones."""
        self.chunks.append((state, new, computed))
        self.tokens += new
        if new == 1:
            if not self.decodes or computed < self.min_context:
                self.min_context = computed
            if computed > self.max_context:
                self.max_context = computed
            self.decodes += 1
            self.decode_context += computed
        else:
            self.prefills += 1
            self.prefill_tokens += new
            self.prefill_context += computed
