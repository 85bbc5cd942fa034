"""Where data-parallel ranks meet: forwards that start when all have submitted their share, and finish all-reduces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from penstock.spec.data_parallel import DataParallelOptions

from .scheduler import Schedule
from .virtual_time import Signal, VirtualTime


class GroupCost(Protocol):
    """How long a forward of all ranks takes."""

    @property
    def stages(self) -> int:
        """Stages of each rank's pipeline."""
        ...

    def stage_ns(self, tokens: Sequence[int], contexts: Sequence[int]) -> Sequence[int]:
        """Per stage, from the sum of new tokens and of tokens computed before, per rank. A dummy has 1 and 0."""
        ...

    def hop_ns(self, tokens: int) -> int:
        """Between two stages of a rank."""
        ...

    def tail_ns(self, requests: int) -> int:
        """How much longer the last stage of a rank is busy with so many requests (sampling)."""
        ...


@dataclass(slots=True, eq=False)
class Forward:
    """One pass of the model on all ranks. Its times are known when the last rank has submitted its share."""

    index: int
    schedules: list[Schedule | None]
    submitted_ns: list[int | None]
    done: list[Signal]
    stage_ns: list[list[int]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class FinishSync:
    """An all-reduce of "have unfinished requests"."""

    entered_ns: list[int | None]
    unfinished: list[bool]
    done: Signal = field(default_factory=Signal)


class Group:
    """Where the ranks meet: their forwards and their all-reduces."""

    def __init__(
        self, time: VirtualTime, options: DataParallelOptions, cost: GroupCost, *, tokens_back: bool
    ):
        self.time = time
        self.size = options.size
        self.sync_ns = options.sync_ns
        self.cost = cost
        self.forwards: list[Forward] = []
        self.syncs: list[FinishSync] = []
        self.sync_rows: list[dict[str, Any]] = []
        self._stage_free = [[0] * cost.stages for _ in range(self.size)]
        self._needs_tokens_back = tokens_back
        self._token_out: list[dict[int, int]] = [{} for _ in range(self.size)]

    def submit(self, rank: int, index: int, schedule: Schedule | None) -> Signal:
        """The share of ``rank`` in forward ``index``; a dummy if ``schedule`` is None."""
        if index == len(self.forwards):
            signals = [Signal() for _ in range(self.size)]
            self.forwards.append(Forward(index, [None] * self.size, [None] * self.size, signals))
        forward = self.forwards[index]
        forward.schedules[rank], forward.submitted_ns[rank] = schedule, self.time.now
        if None not in forward.submitted_ns:
            self._run(forward)
        return forward.done[rank]

    def _run(self, forward: Forward) -> None:
        ready = [self._ready_ns(forward, rank) for rank in range(self.size)]
        last = self.cost.stages - 1
        for stage, duration in enumerate(self.cost.stage_ns(*self.loads(forward))):
            start = max(max(free[stage], at) for free, at in zip(self._stage_free, ready, strict=True))
            end = start + duration
            forward.stage_ns.append([start, end])
            for rank, schedule in enumerate(forward.schedules):
                self._stage_free[rank][stage] = end
                if schedule is not None:
                    ready[rank] = end + self.cost.hop_ns(schedule.tokens)
                    if stage == last:
                        self._stage_free[rank][stage] += self.cost.tail_ns(len(schedule.chunks))
        for rank, schedule in enumerate(forward.schedules):
            done = forward.done[rank].ready_ns = self._stage_free[rank][last]
            for chunk in schedule.chunks if schedule is not None else ():
                if chunk.samples:
                    self._token_out[rank][chunk.state.request.index] = done

    def _ready_ns(self, forward: Forward, rank: int) -> int:
        submitted, schedule = forward.submitted_ns[rank], forward.schedules[rank]
        assert submitted is not None
        if schedule is None or not self._needs_tokens_back:
            return submitted
        tokens = (self._token_out[rank].get(chunk.state.request.index, 0) for chunk in schedule.chunks)
        return max(submitted, *tokens)

    def row(self, forward: Forward) -> dict[str, Any]:
        """A forward in the recordings' schema."""
        tokens, contexts = self.loads(forward)
        return {
            "fwd": forward.index,
            "n": tokens,
            "kv": contexts,
            "dummy": [rank for rank, schedule in enumerate(forward.schedules) if schedule is None],
            "t_submit_ns": forward.submitted_ns,
            "stage_ns": forward.stage_ns,
            "t_done_ns": [signal.ready_ns for signal in forward.done],
        }

    @staticmethod
    def loads(forward: Forward) -> tuple[list[int], list[int]]:
        """New tokens and computed ones per rank."""
        tokens = [1 if schedule is None else schedule.tokens for schedule in forward.schedules]
        contexts = [
            0 if schedule is None else sum(chunk.computed for chunk in schedule.chunks)
            for schedule in forward.schedules
        ]
        return tokens, contexts

    def enter_sync(self, rank: int, index: int, *, unfinished: bool, wave: int, step: int) -> FinishSync:
        """``rank`` comes to all-reduce ``index`` and will be told when all have."""
        if index == len(self.syncs):
            self.syncs.append(FinishSync([None] * self.size, [False] * self.size))
        sync = self.syncs[index]
        sync.entered_ns[rank], sync.unfinished[rank] = self.time.now, unfinished
        if None not in sync.entered_ns:
            sync.done.ready_ns = self.time.now + self.sync_ns
            self.sync_rows.append(
                {
                    "t_ns": sync.done.ready_ns,
                    "wave": wave,
                    "step_counter": step,
                    "unfinished": list(sync.unfinished),
                    "t_enter_ns": list(sync.entered_ns),
                }
            )
        return sync
