"""What happened, in columns. The engine appends and never reads back.

Two logs: one row per *turn* (a call of schedule(), empty ones too) of each instance, and one row per request.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np

from penstock.spec.deployment import Deployment
from penstock.units import Int64Array


class Cause(IntEnum):
    """Why nothing (more) was schedulable once a turn's schedule() had returned."""

    IDLE = 0  # no unfinished request in the instance
    DEPENDENCY = 1  # unfinished requests, but every schedulable token waits for one in flight
    MEMORY = 2  # requests wait, or were preempted: KV blocks keep them out
    ENGINE = 3  # schedulable work is left: budget spent, batch queue full, or the engine is busy
    SEQS = 4  # requests wait, max_num_seqs requests run already
    KV_TRANSFER = 5  # nobody runs, and requests wait for KV that is on its way to this instance


TURN_COLUMNS = (
    "schedule_ns",  # when schedule() was called
    "first_arrival_ns",  # earliest arrival among the requests taken in just before; schedule_ns if none
    "cause_after",  # Cause: why nothing more can be scheduled after this turn
    "tokens",  # new tokens in the step; 0 for an empty step, which visits no stage
    "sampled",  # sequences whose next token comes out of this step
    "decodes",  # requests with exactly one new token
    "prefills",  # requests with more than one new token
    "prefill_tokens",  # new tokens of those
    "context_tokens",  # tokens computed before, summed over the step
    "free_blocks",  # KV blocks free after
    "running",  # requests running after
    "waiting",  # requests waiting after
    "in_flight",  # steps in the batch queue before this one
    "done_ns",  # the sampled tokens are back at the engine
    "update_ns",  # the engine took the result
)
"""Columns of the turn log that do not depend on the stage; ``stage_columns`` follow."""


def stage_columns(pp_size: int) -> tuple[str, ...]:
    """``arrive_s_ns, start_s_ns, end_s_ns`` per stage ``s``. For an empty step all equal ``schedule_ns``
    and mean nothing."""
    return tuple(f"{what}_{stage}_ns" for stage in range(pp_size) for what in ("arrive", "start", "end"))


@dataclass(frozen=True, slots=True)
class TurnChunk:
    """Consecutive turns of one instance, oldest first: ``values[i, j]`` is column ``j`` of turn ``i``.

    ``first_turn`` is the number of the chunk's first row in the instance's run.
    """

    instance: int
    pp_size: int
    first_turn: int
    values: Int64Array

    def column(self, name: str) -> Int64Array:
        """One column by name, a view of shape (turns,)."""
        return self.values[:, TURN_COLUMNS.index(name)]

    def stage(self, stage: int, what: str) -> Int64Array:
        """``what`` in ``arrive | start | end`` of one stage, a view of shape (turns,)."""
        return self.values[:, len(TURN_COLUMNS) + 3 * stage + ("arrive", "start", "end").index(what)]


class TurnSink(Protocol):
    """Takes turns as they are completed, in order per instance, in chunks of any size."""

    def accept(self, chunk: TurnChunk) -> None:
        """Called with each chunk once."""
        ...


REQUEST_COLUMNS = (
    "request",  # index in the workload
    "instance",
    "input_tokens",
    "output_tokens",  # tokens generated: fewer than asked for where max_model_len cut it short
    "arrival_ns",
    "first_scheduled_ns",
    "first_token_ns",
    "finish_ns",
    "preemptions",
    "cached_tokens",  # prefix-cache hit at first admission
)


class Role(IntEnum):
    """What an instance does for the requests that are sent to it."""

    WHOLE = 0  # prompt and answer
    PREFILL = 1  # the prompt, and then hands the request on
    DECODE = 2  # the answer to a prompt that another instance has computed


LEG_COLUMNS = (
    "request",
    "leg",  # from 0
    "instance",
    "role",  # Role
    "arrived_ns",  # at this instance; the user's clock is the request's arrival_ns
    "first_scheduled_ns",
    "first_token_ns",
    "end_ns",  # finished, or handed on
    "kv_bytes",  # of KV moved to this instance for it
)
"""Columns of the legs of requests: their stays at one instance each."""


class TokenTimes(Protocol):
    """Times of which slices can be taken, as of an array."""

    def __getitem__(self, part: slice, /) -> array[int]: ...


class RequestLog:
    """One row per finished request, in the order in which instances report them. ``segments`` hold token times as
    slices of arrays shared between requests, or nothing where they were not asked for. A request that was at one
    instance all the time has one leg, which its row says all about; legs are stored for the others."""

    def __init__(self, *, keep_token_times: bool) -> None:
        self.keep_token_times = keep_token_times
        self._values = array("q")
        self._segments: list[tuple[tuple[TokenTimes, int, int], ...]] = []
        self._legs: dict[int, tuple[tuple[int, ...], ...]] = {}

    def append(
        self,
        row: tuple[int, ...],
        segments: tuple[tuple[TokenTimes, int, int], ...],
        legs: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """Add a finished request: ``row`` in the order of REQUEST_COLUMNS; each segment is (completion times,
        start, stop); ``legs`` in the order of LEG_COLUMNS, none where the row says it all."""
        if legs:
            self._legs[len(self)] = legs
        self._values.extend(row)
        if self.keep_token_times:
            self._segments.append(segments)

    def extend(self, rows: bytes, segments: Sequence[tuple[tuple[TokenTimes, int, int], ...]]) -> None:
        """Add finished requests, whose rows are int64 one after the other; ``segments`` of each, where token times
        are kept."""
        self._values.frombytes(rows)
        self._segments += segments

    def add_legs(self, row: int, legs: tuple[tuple[int, ...], ...]) -> None:
        """What the row does not say of a request's stays."""
        self._legs[row] = legs

    @property
    def has_legs(self) -> bool:
        """Whether any request has legs that its row does not say all about."""
        return bool(self._legs)

    def legs(self) -> Int64Array:
        """The legs of all requests, by row and leg, shape (legs, columns)."""
        rows: list[tuple[int, ...]] = []
        place = {name: index for index, name in enumerate(REQUEST_COLUMNS)}
        times = [place[name] for name in ("arrival_ns", "first_scheduled_ns", "first_token_ns", "finish_ns")]
        for number, row in enumerate(self.values().tolist()):
            whole = (row[0], 0, row[place["instance"]], int(Role.WHOLE), *(row[one] for one in times), 0)
            rows += self._legs.get(number, (whole,))
        return np.array(rows, dtype=np.int64).reshape(-1, len(LEG_COLUMNS))

    def __len__(self) -> int:
        return len(self._values) // len(REQUEST_COLUMNS)

    def values(self) -> Int64Array:
        """All rows, shape (requests, columns), a copy."""
        return np.array(self._values, dtype=np.int64).reshape(-1, len(REQUEST_COLUMNS))

    def token_times_ns(self, row: int) -> Int64Array:
        """When each token of the request in ``row`` reached the engine, shape (output_tokens,).

        Raises:
            LookupError: token times were not kept.
        """
        if not self.keep_token_times:
            raise LookupError("token times were not kept: run with keep_token_times=True")
        parts = [times[start:stop] for times, start, stop in self._segments[row]]
        return np.concatenate([np.array(part, dtype=np.int64) for part in parts])


@dataclass(frozen=True, slots=True)
class Rejection:
    """A request that can never run (it does not fit the KV pool or max_model_len), refused on arrival."""

    request: int
    instance: int
    arrival_ns: int
    input_tokens: int
    output_tokens: int
    reason: str


@dataclass(frozen=True, slots=True)
class Abortion:
    """A request that ended without its answer, at ``at_ns``: its client left, or it ``failed``. ``generated_tokens``
    had come by then."""

    request: int
    instance: int
    arrival_ns: int
    at_ns: int
    input_tokens: int
    generated_tokens: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Transfer:
    """KV of a request on its way from instance ``source`` to stage ``stage`` of ``target``: ``blocks`` of the
    target's, ``size_bytes``. Asked for at ``post_ns``, on its links from ``start_ns``, there at ``end_ns``, unless
    it failed."""

    request: int
    source: int
    target: int
    stage: int
    blocks: int
    size_bytes: int
    post_ns: int
    start_ns: int
    end_ns: int
    is_ok: bool = True


@dataclass(frozen=True, slots=True)
class TierTotals:
    """What a tier of KV in host memory did for an instance: tokens looked up and found, copies out and back and their
    time over all stages, stores refused for lack of room, and how long steps were held back by copies."""

    chunks: int
    looked_up_tokens: int
    hit_tokens: int
    stores: int
    loads: int
    store_ns: int
    load_ns: int
    refused_stores: int
    stall_ns: int


@dataclass(frozen=True, slots=True)
class InstanceTotals:
    """Counters of one instance over its run. ``iterations`` counts steps with tokens, ``empty_schedules``
    the others; ``cohort_turns`` and ``exact_turns`` say which path scheduled them."""

    iterations: int
    empty_schedules: int
    idle_sleeps: int
    preemptions: int
    prompt_tokens: int
    generated_tokens: int
    cohort_turns: int
    exact_turns: int
    busy_ns: tuple[int, ...]  # per stage
    end_ns: int
    tier: TierTotals | None = None
    late_reads: int = 0  # of KV that was given up before
    expired_leases: int = 0
    notes: tuple[str, ...] = ()  # e.g. lookups outside the measured range, how often and how far


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaTime:
    """A stay of one instance under autoscaling: from when it was started, ``ready_ns`` when it could serve, to when it
    stopped, or the run ended."""

    instance: int
    start_ns: int
    ready_ns: int
    stop_ns: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """All that a run leaves behind beside the turns it streamed to its sinks.

    ``token_gaps`` = (gap_ns, weight): every gap between two consecutive tokens of a request, counted:
    exactly the multiset of inter-token latencies, without a list per request; pairs of weight 0 count
    nothing. ``deployments`` and ``totals`` are by instance. ``end_ns`` is the last event. ``replica_times``
    are those of autoscaling, in the order of their starts; empty without.
    """

    deployments: tuple[Deployment, ...]
    requests: RequestLog
    rejections: tuple[Rejection, ...]
    totals: tuple[InstanceTotals, ...]
    token_gaps: tuple[Int64Array, Int64Array]
    first_arrival_ns: int
    end_ns: int
    abortions: tuple[Abortion, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    replica_times: tuple[ReplicaTime, ...] = ()
