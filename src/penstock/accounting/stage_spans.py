"""Cuts the time of an instance's stages into spans with one cause each. The rules stand in ``bubbles.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from penstock.recording.records import TURN_COLUMNS, Cause, Int64Array, TurnChunk, stage_columns


class StageCause(IntEnum):
    """What a stage does, or why it does nothing."""

    BUSY = 0
    TRANSFER = 1
    FILL = 2
    IMBALANCE = 3
    DEPENDENCY = 4
    MEMORY = 5
    ENGINE = 6
    BLOCKED = 7
    IDLE = 8
    DRAIN = 9
    SYNC = 10
    DUMMY = 11
    SEQS = 12
    KV_TRANSFER = 13


_INHERITED_LATEST_FIRST = (
    StageCause.TRANSFER,
    StageCause.BLOCKED,
    StageCause.ENGINE,
    StageCause.MEMORY,
    StageCause.SEQS,
    StageCause.KV_TRANSFER,
    StageCause.DEPENDENCY,
    StageCause.SYNC,
)
_UPSTREAM_IN_TIME = (StageCause.IMBALANCE, *reversed(_INHERITED_LATEST_FIRST))


@dataclass(frozen=True, slots=True)
class StageSpans:
    """Spans [begin_ns, end_ns) of one stage with their StageCause, each of shape (spans,); disjoint, none
    empty, in no particular order."""

    begin_ns: Int64Array
    end_ns: Int64Array
    cause: Int64Array

    def chosen(self, which: npt.NDArray[np.bool_ | np.intp]) -> StageSpans:
        """Those where ``which`` is true, or those at its places, in its order."""
        return StageSpans(self.begin_ns[which], self.end_ns[which], self.cause[which])

    def clipped(self, end_ns: int) -> StageSpans:
        """What lies before ``end_ns``."""
        kept = self.chosen(self.begin_ns < end_ns)
        return StageSpans(kept.begin_ns, np.minimum(kept.end_ns, end_ns), kept.cause)

    @staticmethod
    def joined(parts: Sequence[StageSpans]) -> StageSpans:
        """All of them."""
        return StageSpans(
            np.concatenate([part.begin_ns for part in parts]),
            np.concatenate([part.end_ns for part in parts]),
            np.concatenate([part.cause for part in parts]),
        )


class _SpanParts:
    """Collects spans, dropping the empty ones."""

    def __init__(self) -> None:
        self._parts: list[tuple[Int64Array, Int64Array, Int64Array]] = []

    def add(self, begin: Int64Array, end: Int64Array, cause: Int64Array | int) -> None:
        kept = end > begin
        if kept.any():
            causes = np.broadcast_to(np.asarray(cause, dtype=np.int64), begin.shape)
            self._parts.append((begin[kept], end[kept], causes[kept]))

    def spans(self) -> StageSpans:
        if not self._parts:
            nothing = np.zeros(0, dtype=np.int64)
            return StageSpans(nothing, nothing, nothing)
        return StageSpans(*(np.concatenate(part) for part in zip(*self._parts, strict=True)))


class TurnTimeline:
    """Why the engine scheduled nothing (more), from the first arrival to the latest turn: ``causes[i]`` holds
    in [edges_ns[i], edges_ns[i+1])."""

    _OF_TURN = np.array(
        [{c.name: c for c in StageCause}[cause.name] for cause in sorted(Cause)], dtype=np.int64
    )

    def __init__(self) -> None:
        self.edges_ns = np.zeros(0, dtype=np.int64)
        self.causes = np.zeros(0, dtype=np.int64)
        self._last_schedule_ns = 0
        self._last_cause = 0
        # Sampling steps that the engine had not taken in at the latest turn: update and done, both ascending.
        self._open_update_ns = np.zeros(0, dtype=np.int64)
        self._open_done_ns = np.zeros(0, dtype=np.int64)

    def extend(self, chunk: TurnChunk) -> None:
        """Continue up to the chunk's last schedule()."""
        schedule = chunk.column("schedule_ns")
        arrival = chunk.column("first_arrival_ns")
        cause = chunk.column("cause_after")
        sampling = chunk.column("sampled") > 0
        update = np.concatenate([self._open_update_ns, chunk.column("update_ns")[sampling]])
        done = np.concatenate([self._open_done_ns, chunk.column("done_ns")[sampling]])
        if not len(self.edges_ns):
            self.edges_ns = np.array([min(arrival[0], schedule[0]), schedule[0]], dtype=np.int64)
            self.causes = np.array([StageCause.ENGINE], dtype=np.int64)
            begin, before = schedule[:-1], cause[:-1]
            schedule, arrival, found = schedule[1:], arrival[1:], cause[1:]
            found_tokens = chunk.column("tokens")[1:]
        else:
            begin = np.concatenate([[self._last_schedule_ns], schedule[:-1]])
            before = np.concatenate([[self._last_cause], cause[:-1]])
            found, found_tokens = cause, chunk.column("tokens")
        before = self._OF_TURN[before]
        waits = np.isin(before, (StageCause.IDLE, StageCause.DEPENDENCY, StageCause.KV_TRANSFER))
        arrived = np.where(waits, np.clip(arrival, begin, schedule), schedule)
        oldest = np.searchsorted(update, begin, side="right")
        back = np.append(done, np.iinfo(np.int64).max)[oldest]
        back = np.clip(back, begin, schedule)
        nothing_left = (found == Cause.IDLE) & (found_tokens == 0) & (back <= arrived)
        edges = np.stack([np.minimum(arrived, back), schedule], axis=1).ravel()
        after = np.where(nothing_left, StageCause.IDLE, StageCause.ENGINE)
        self.edges_ns = np.concatenate([self.edges_ns, edges])
        self.causes = np.concatenate([self.causes, np.stack([before, after], axis=1).ravel()])
        self._last_schedule_ns = int(self.edges_ns[-1])
        self._last_cause = int(cause[-1])
        is_open = update > self._last_schedule_ns
        self._open_update_ns, self._open_done_ns = update[is_open], done[is_open]

    def forget_before(self, time_ns: int) -> None:
        """Drop what ends at or before ``time_ns``, but for the last piece."""
        first = min(int(np.searchsorted(self.edges_ns, time_ns, side="right")) - 1, len(self.causes) - 1)
        if first > 0:
            self.edges_ns = self.edges_ns[first:]
            self.causes = self.causes[first:]

    def cause_at(self, time_ns: Int64Array) -> Int64Array:
        """The cause in force at each time; times beyond the latest turn get the last one."""
        place = np.searchsorted(self.edges_ns, time_ns, side="right") - 1
        return self.causes[np.clip(place, 0, len(self.causes) - 1)]

    def cut(
        self, begin: Int64Array, end: Int64Array
    ) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
        """Cut intervals (shape (n,)) by cause: the interval's index, begin, end and cause of each piece."""
        rows = np.flatnonzero(end > begin)
        first = np.searchsorted(self.edges_ns, begin[rows], side="right") - 1
        count = np.searchsorted(self.edges_ns, end[rows], side="left") - first
        total = int(count.sum())
        piece = np.arange(total) + np.repeat(first - (np.cumsum(count) - count), count)
        rows = np.repeat(rows, count)
        return (
            rows,
            np.maximum(self.edges_ns[piece], begin[rows]),
            np.minimum(self.edges_ns[piece + 1], end[rows]),
            self.causes[piece],
        )


class GapSplitter:
    """The spans of one instance's stages, chunk by chunk.

    What is carried from chunk to chunk is the latest step with tokens, what its stages do after it was
    scheduled, and the turns since: no more than the batch queue is deep.
    """

    def __init__(self, pp_size: int, *, blocking_sends: bool = False, in_lockstep: bool = False) -> None:
        self._pp_size = pp_size
        self._blocking_sends = blocking_sends
        self._in_lockstep = in_lockstep
        self._timeline = TurnTimeline()
        self._begin_ns: int | None = None  # the first arrival, once a turn is known
        self._latest: Int64Array | None = None  # row of the latest step with tokens
        self._ran_empty = True
        # A step that goes on when the last request has finished was scheduled before: spans that end after
        # the latest step's schedule() may have to be clipped at the window's end.
        self._held: list[StageSpans] = []

    def accept(self, chunk: TurnChunk) -> list[StageSpans]:
        """Spans of every stage from where the previous ones ended to the end of the chunk's last step;
        the first begin with the instance's first arrival."""
        if not len(chunk.values):
            return []
        self._timeline.extend(chunk)
        if self._begin_ns is None:
            self._begin_ns = int(self._timeline.edges_ns[0])
        visits = chunk.column("tokens") > 0
        if self._in_lockstep:
            visits |= chunk.stage(0, "end") > chunk.stage(0, "start")
        rows = np.flatnonzero(visits)
        idle_turns = np.concatenate([[0], np.cumsum(chunk.column("cause_after") == Cause.IDLE)])
        if not len(rows):
            self._ran_empty |= bool(idle_turns[-1])
            return []
        # Turns strictly between a step and the one before it.
        ran_empty = idle_turns[rows] > np.concatenate([[0], idle_turns[rows[:-1] + 1]])
        ran_empty[0] |= self._ran_empty
        steps = chunk.values[rows]
        earlier = self._latest
        if earlier is None:
            earlier = np.full(chunk.values.shape[1], self._begin_ns, dtype=np.int64)
        gaps = _Gaps(chunk.pp_size, np.vstack([earlier[None, :], steps[:-1]]), steps, ran_empty)
        spans = gaps.spans(self._timeline, blocking_sends=self._blocking_sends, in_lockstep=self._in_lockstep)
        latest = steps[-1].copy()
        self._latest = latest
        self._ran_empty = bool(idle_turns[-1] > idle_turns[rows[-1] + 1])
        self._timeline.forget_before(int(latest[0]))
        return self._release(spans, int(latest[0]))

    def _release(self, spans: list[StageSpans], settled_ns: int) -> list[StageSpans]:
        """Everything that ended by ``settled_ns``; the rest is held back."""
        if self._held:
            spans = [StageSpans.joined(parts) for parts in zip(self._held, spans, strict=True)]
        self._held = [part.chosen(part.end_ns > settled_ns) for part in spans]
        return [part.chosen(part.end_ns <= settled_ns) for part in spans]

    @property
    def dummies_until_ns(self) -> int:
        """When the last step of a rank in lock-step was scheduled, which may be a dummy; 0 for other instances."""
        return int(self._latest[0]) if self._in_lockstep and self._latest is not None else 0

    def finish(self, window_start_ns: int, window_end_ns: int) -> list[StageSpans]:
        """What is missing to cover the window: before the first spans, held back, after the last ones.

        Raises:
            ValueError: the instance was at work outside the window.
        """
        latest, begin = self._latest, self._begin_ns
        if latest is None or begin is None:
            idle = _SpanParts()
            idle.add(*_one(window_start_ns, window_end_ns), StageCause.IDLE)
            return [idle.spans()] * self._pp_size
        if begin < window_start_ns or int(latest[0]) > window_end_ns:
            raise uncovered(window_start_ns, window_end_ns, begin, int(latest[0]))
        updated = min(int(latest[TURN_COLUMNS.index("update_ns")]), window_end_ns)
        result: list[StageSpans] = []
        for stage in range(self._pp_size):
            end = min(self._stage_value(latest, stage, "end"), window_end_ns)
            sent = end
            if self._blocking_sends and stage < self._pp_size - 1:
                sent = min(max(self._stage_value(latest, stage + 1, "arrive"), end), window_end_ns)
            drained = max(updated, sent)
            parts = _SpanParts()
            parts.add(*_one(window_start_ns, begin), StageCause.IDLE)
            parts.add(*_one(end, sent), StageCause.BLOCKED)
            parts.add(*_one(sent, drained), StageCause.DRAIN)
            parts.add(*_one(drained, window_end_ns), StageCause.IDLE)
            result.append(StageSpans.joined([self._held[stage].clipped(window_end_ns), parts.spans()]))
        return result

    def _stage_value(self, row: Int64Array, stage: int, what: str) -> int:
        place = stage_columns(self._pp_size).index(f"{what}_{stage}_ns")
        return int(row[len(TURN_COLUMNS) + place])


def uncovered(start_ns: int, end_ns: int, begin_ns: int, latest_ns: int) -> ValueError:
    """The mistake of a window that is too short."""
    return ValueError(
        f"the window [{start_ns}, {end_ns}) does not cover an instance at work from {begin_ns} to {latest_ns}"
    )


def _one(begin: int, end: int) -> tuple[Int64Array, Int64Array]:
    return np.array([begin], dtype=np.int64), np.array([end], dtype=np.int64)


class _Gaps:
    """Gaps before consecutive steps, on all stages: ``earlier[i]`` is the row of the step before
    ``steps[i]``."""

    def __init__(
        self, pp_size: int, earlier: Int64Array, steps: Int64Array, ran_empty: npt.NDArray[np.bool_]
    ) -> None:
        self._pp_size = pp_size
        self._before = TurnChunk(0, pp_size, 0, earlier)
        self._steps = TurnChunk(0, pp_size, 0, steps)
        self._ran_empty = ran_empty

    def spans(self, timeline: TurnTimeline, *, blocking_sends: bool, in_lockstep: bool) -> list[StageSpans]:
        """From the end of the step before to the end of the step, per stage."""
        before, steps = self._before, self._steps
        left_ns = before.stage(self._pp_size - 1, "end")
        scheduled = steps.column("schedule_ns")
        ran_dry = timeline.cause_at(np.maximum(left_ns - 1, before.column("schedule_ns")))
        was_empty = left_ns <= scheduled
        refill = np.where(self._ran_empty, StageCause.FILL, ran_dry)
        runs = np.where(steps.column("tokens") > 0, StageCause.BUSY, StageCause.DUMMY)
        waits = StageCause.SYNC if in_lockstep else StageCause.DEPENDENCY
        passed_down = np.zeros((len(StageCause), len(scheduled)), dtype=np.int64)
        result: list[StageSpans] = []
        for stage in range(self._pp_size):
            start, end = steps.stage(stage, "start"), steps.stage(stage, "end")
            parts = _SpanParts()
            parts.add(start, end, runs)
            is_blocking = blocking_sends and stage < self._pp_size - 1
            own, at = self._until_entry(stage, timeline, parts, is_blocking=is_blocking)
            if stage:
                upstream_end = np.clip(steps.stage(stage - 1, "end"), at, start)
                shares = _upstream_shares(upstream_end - at, passed_down - own)
                shares[:, was_empty] = 0
                parts.add(np.where(was_empty, at, upstream_end), upstream_end, refill)
                shares_sum = at
                for cause in _UPSTREAM_IN_TIME:
                    parts.add(shares_sum, shares_sum + shares[cause], cause)
                    shares_sum = shares_sum + shares[cause]
                own += shares
                own[refill, np.arange(len(at))] += np.where(was_empty, upstream_end - at, 0)
                at = np.clip(steps.stage(stage, "arrive"), upstream_end, start)
                parts.add(upstream_end, at, StageCause.TRANSFER)
                own[StageCause.TRANSFER] += at - upstream_end
            parts.add(at, start, waits)
            own[waits] += start - at
            passed_down = own
            result.append(parts.spans())
        return result

    def _until_entry(
        self, stage: int, timeline: TurnTimeline, parts: _SpanParts, *, is_blocking: bool
    ) -> tuple[Int64Array, Int64Array]:
        """The gap up to the step's arrival at the first stage: ns per cause, shape (causes, steps), and
        where each gap then stands."""
        before, steps = self._before, self._steps
        start = steps.stage(stage, "start")
        free = before.stage(stage, "end")
        own = np.zeros((len(StageCause), len(free)), dtype=np.int64)
        at = np.clip(before.stage(stage + 1, "arrive"), free, start) if is_blocking else free
        parts.add(free, at, StageCause.BLOCKED)
        own[StageCause.BLOCKED] = at - free
        drained = np.where(self._ran_empty, np.clip(before.column("update_ns"), at, start), at)
        parts.add(at, drained, StageCause.DRAIN)
        scheduled = np.clip(steps.column("schedule_ns"), drained, start)
        rows, begin, end, cause = timeline.cut(drained, scheduled)
        parts.add(begin, end, cause)
        np.add.at(own, (cause, rows), end - begin)
        entered = np.clip(steps.stage(0, "arrive"), scheduled, start)
        parts.add(scheduled, entered, StageCause.ENGINE)
        own[StageCause.ENGINE] += entered - scheduled
        return own, entered


def _upstream_shares(waited: Int64Array, passed_down: Int64Array) -> Int64Array:
    """Split the wait for upstream (shape (steps,)) by what the stage before passes down, (causes, steps)."""
    shares = np.zeros_like(passed_down)
    left = waited
    for cause in _INHERITED_LATEST_FIRST:
        shares[cause] = np.minimum(left, np.maximum(passed_down[cause], 0))
        left = left - shares[cause]
    shares[StageCause.IMBALANCE] = left
    return shares
