"""One micro-batch: what a call of schedule() decided."""

from __future__ import annotations

from penstock.scheduler.cohort import Cohort
from penstock.scheduler.request_state import RequestState
from penstock.units import NEVER_NS

UNKNOWN_NS = NEVER_NS
"""A time that depends on what others do, and that is not known yet."""


class Step:
    """The decodes of one cohort and the prefill chunks beside them; without either, an empty step.

    ``members`` counts the cohort's decodes, ``chunks`` lists (request, new tokens, computed before) of all
    others. ``decodes``, ``prefills`` and the contexts are the step as the cost model sees it
    (:class:`~penstock.cost.step_cost.StepLoad`): a chunk of one token is a decode there. ``sampling`` are the
    requests outside the cohort whose next token this step computes, ``preempted_in_flight`` those preempted since
    (and whether as members of the cohort); the tokens of both come with the step's result.

    ``after`` is the step in flight whose tokens this one needs: it cannot begin before that has left the last
    stage. Under async scheduling a step computes its cohort's turn number ``turn``, scheduled when the results up to
    ``known_turn`` were back; ``joining`` are the members whose first turn in this cohort it is, and the tokens of
    those ``apart`` come to each of them by itself, as they have left the cohort since. ``number`` counts a
    scheduler's steps from 1, ``row`` is its row in the turn log. ``end_ns`` is when it leaves the last stage,
    ``done_ns`` when the engine can have its result; UNKNOWN_NS until that is known. A step that has come back is used
    again.
    """

    __slots__ = (
        "after",
        "apart",
        "chunks",
        "cohort",
        "decode_context",
        "decodes",
        "done_ns",
        "end_ns",
        "joining",
        "known_turn",
        "max_context",
        "members",
        "min_context",
        "number",
        "preempted",
        "preempted_in_flight",
        "prefill_context",
        "prefill_tokens",
        "prefills",
        "row",
        "sampled",
        "sampling",
        "tokens",
        "turn",
    )

    def __init__(self) -> None:
        self.cohort: Cohort | None = None
        self.members = 0
        self.chunks: list[tuple[RequestState, int, int]] = []
        self.sampling: list[RequestState] = []
        self.preempted_in_flight: list[tuple[RequestState, bool]] = []
        self.preempted: list[RequestState] = []
        self.after: Step | None = None
        self.turn = 0
        self.known_turn = 0
        self.joining: dict[RequestState, None] = {}
        self.apart: list[RequestState] = []
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
        self.number = 0
        self.row = 0

    def clear(self) -> None:
        """Make it an empty step again."""
        self.cohort = None
        self.members = self.tokens = self.sampled = 0
        self.decodes = self.decode_context = self.min_context = self.max_context = 0
        if self.chunks or self.preempted or self.preempted_in_flight:
            self.chunks.clear()
            self.sampling.clear()
            self.preempted_in_flight.clear()
            self.preempted.clear()
            self.prefills = self.prefill_tokens = self.prefill_context = 0
            self.after = None

    @property
    def is_plain(self) -> bool:
        """Whether it holds decodes of its cohort alone, all of whom get their token from it as members."""
        return not (self.chunks or self.preempted_in_flight or self.preempted or self.joining or self.apart)

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

    def wait_for(self, step: Step) -> None:
        """Do not begin before ``step``, which is in flight, has left the last stage."""
        if self.after is None or step.number > self.after.number:
            self.after = step

    def take_out(self, state: RequestState) -> int:
        """Take a request's chunk out again; returns its new tokens, 0 where it has none. To be called before the
        cohort's members are added."""
        chunks = self.chunks[:]
        given = sum(new for owner, new, _ in chunks if owner is state)
        if not given:
            return 0
        self.chunks.clear()
        self.tokens = self.decodes = self.decode_context = self.min_context = self.max_context = 0
        self.prefills = self.prefill_tokens = self.prefill_context = 0
        for owner, new, computed in chunks:
            if owner is not state:
                self.add_chunk(owner, new, computed)
        if state in self.sampling:
            self.sampling.remove(state)
            self.sampled -= 1
        return given

    def contents(self) -> list[tuple[RequestState, int, int]]:
        """(request, new tokens, computed before) of everything in the step, in the order of admission."""
        members: list[tuple[RequestState, int, int]] = []
        if self.members and self.cohort is not None:
            members = self.cohort.decodes_of(self)
        return sorted([*members, *self.chunks], key=_order_of_entry)

    @property
    def known_done_ns(self) -> int | None:
        """``done_ns``, or None where it is not known yet."""
        return None if self.done_ns == UNKNOWN_NS else self.done_ns


def _order_of_entry(entry: tuple[RequestState, int, int]) -> int:
    return entry[0].order
