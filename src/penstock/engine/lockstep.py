"""Where data-parallel ranks meet: forwards that all run together, and the all-reduces that end a wave.

Every MoE layer exchanges tokens over all ranks, so forward k of one rank is forward k of all: on each stage it
begins when the last rank is ready for it and takes all of them the same time. Each rank has a pipeline of its own
(:class:`RankPipeline`, an :class:`~penstock.engine.executor.Executor`), and a step's way is known when the last
rank has sent off its share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from penstock.cost.group_cost import GroupCost
from penstock.cost.step_cost import HopCost
from penstock.engine.executor import Arrived, HoldBack
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.scheduler.step import UNKNOWN_NS, Step

Tail = Callable[[int], int]


class Forward:
    """One pass of the model over all ranks. ``steps[r]`` is the share of rank r, None its dummy batch; it can
    begin at ``entry_ns[r]``."""

    __slots__ = ("entry_ns", "index", "missing", "steps")

    def __init__(self, index: int, size: int) -> None:
        self.index = index
        self.missing = size
        self.steps: list[Step | None] = [None] * size
        self.entry_ns = [UNKNOWN_NS] * size


class FinishSync:
    """An all-reduce of "have unfinished requests"; ``at_ns`` is None until all ranks have entered it."""

    __slots__ = ("at_ns", "entered_ns", "missing", "unfinished")

    def __init__(self, size: int) -> None:
        self.at_ns: int | None = None
        self.missing = size
        self.entered_ns = [0] * size
        self.unfinished = [False] * size


class GroupWatcher(Protocol):
    """Sees what ranks do together; a group without one pays nothing for it."""

    def ran(self, forward: Forward, stage_ns: Sequence[tuple[int, int]], done_ns: Sequence[int]) -> None:
        """A forward's times are known: start and end per stage, and when each rank has its result."""
        ...

    def synced(self, sync: FinishSync, wave: int, step_counter: int) -> None:
        """All ranks have entered an all-reduce."""
        ...


class LockstepGroup:
    """``size`` ranks of ``len(hops) + 1`` stages. ``tail_ns(requests)`` is how much longer a rank's last stage is
    busy with a real step of so many requests, ``return_ns[sampled]`` the way of its tokens back, ``back_ns`` of any
    result, ``sync_ns`` the length of an all-reduce. It counts ``forwards``, ``padding_tokens`` that ranks ran beside
    their own, and ``waited_for_ns[r]``: how long the others' stages waited, in sum, for rank r as the last.
    ``requests_of`` tell of each rank whether it has an unfinished request.
    """

    def __init__(
        self,
        cost: GroupCost,
        size: int,
        hops: Sequence[HopCost],
        return_ns: Sequence[int],
        *,
        back_ns: int = 0,
        sync_ns: int = 0,
        tail_ns: Tail | None = None,
    ) -> None:
        self.size = size
        self.pp_size = len(hops) + 1
        self.cost = cost
        self.watcher: GroupWatcher | None = None
        self.pipelines = [RankPipeline(self, rank, self.pp_size) for rank in range(size)]
        self.forwards = 0
        self.requests_of: list[Callable[[], bool]] = []
        self.padding_tokens = 0
        self.waited_for_ns = [0] * size
        self._hops = [(hop.arrival_ns, hop.occupancy_ns) for hop in hops]
        self.return_ns = return_ns
        self.back_ns = back_ns
        self.sync_ns = sync_ns
        self.tail_ns = tail_ns
        self._open: deque[Forward] = deque()
        self._sync = FinishSync(size)
        self._when_synced: list[Callable[[int], None]] = [_nobody] * size

    # --- finish all-reduces ---------------------------------------------------------------------------------

    def when_synced(self, rank: int, tell: Callable[[int], None]) -> None:
        """Call ``tell(at_ns)`` when an all-reduce that ``rank`` waits for will end."""
        self._when_synced[rank] = tell

    def enter_sync(
        self, rank: int, now: int, *, unfinished: bool, wave: int, step_counter: int
    ) -> FinishSync:
        """``rank`` comes to the all-reduce. Its ``at_ns`` is known if all others are there."""
        sync = self._sync
        sync.entered_ns[rank] = now
        sync.unfinished[rank] = unfinished
        sync.missing -= 1
        if not sync.missing:
            sync.at_ns = at_ns = now + self.sync_ns
            self._sync = FinishSync(self.size)
            if self.watcher is not None:
                self.watcher.synced(sync, wave, step_counter)
            for other, tell in enumerate(self._when_synced):
                if other != rank:
                    tell(at_ns)
        return sync

    # --- forwards -------------------------------------------------------------------------------------------

    def submit(self, rank: int, index: int, step: Step, entry_ns: int, *, dummy: bool) -> bool:
        """The share of ``rank`` in forward ``index``; whether it was the last missing, so that times are known."""
        place = index - self.forwards
        if place == len(self._open):
            self._open.append(Forward(index, self.size))
        forward = self._open[place]
        if not dummy:
            forward.steps[rank] = step
        forward.entry_ns[rank] = entry_ns
        forward.missing -= 1
        if forward.missing:
            return False
        self._open.popleft()
        self.forwards += 1
        self._run(forward, rank)
        return True

    def _run(self, forward: Forward, last_rank: int) -> None:
        steps = forward.steps
        compute = self.cost.forward_ns(steps)
        padded = self.cost.padded_tokens(steps)
        pipelines = self.pipelines
        last = self.pp_size - 1
        known_ns = max(forward.entry_ns)
        arrive = [
            pipeline.ready_ns(step, entry)
            for pipeline, step, entry in zip(pipelines, steps, forward.entry_ns, strict=True)
        ]
        spans: list[tuple[int, int]] = []
        for stage in range(self.pp_size):
            start = ready_sum = latest = 0
            for rank, at in enumerate(arrive):
                free = pipelines[rank].stage_free_ns[stage]
                ready = free if free > at else at
                ready_sum += ready
                if ready > start:
                    start, latest = ready, rank
            self.waited_for_ns[latest] += self.size * start - ready_sum
            for pipeline, step, at in zip(pipelines, steps, arrive, strict=True):
                if pipeline.hold_back is not None and step is not None:
                    # A worker acts when it comes to its step, but not before all ranks have sent off theirs.
                    ready = max(pipeline.stage_free_ns[stage], at, known_ns)
                    start = max(start, pipeline.hold_back(step, stage, ready))
            end = start + compute[stage]
            spans.append((start, end))
            place = 3 * stage
            for rank, pipeline in enumerate(pipelines):
                step = steps[rank]
                times = pipeline.times
                times[place] = arrive[rank]
                times[place + 1] = start
                times[place + 2] = end
                pipeline.stage_free_ns[stage] = end
                if step is None:
                    continue
                if stage < last:
                    arrive[rank] = pipeline.hop(stage, self._hops[stage], padded or step.tokens, end)
                elif self.tail_ns is not None:
                    busy_until = end + self.tail_ns(step.members + len(step.chunks))
                    pipeline.stage_free_ns[stage] = times[place + 2] = busy_until
        if padded:
            self.padding_tokens += padded * self.size - sum(
                1 if step is None else step.tokens for step in steps
            )
        done = [self._finish(rank, step) for rank, step in enumerate(steps)]
        if self.watcher is not None:
            self.watcher.ran(forward, spans, done)
        for rank, pipeline in enumerate(pipelines):
            pipeline.resolved(forward.index, tell=rank != last_rank)

    def _finish(self, rank: int, step: Step | None) -> int:
        pipeline = self.pipelines[rank]
        end = pipeline.stage_free_ns[-1]
        if step is None:
            step, returned = pipeline.dummy, 0
        else:
            returned = self.return_ns[step.sampled]
        step.end_ns = end
        step.done_ns = end + returned + self.back_ns
        return step.done_ns


class RankPipeline:
    """The stages of one rank: an :class:`~penstock.engine.executor.Executor`. ``times`` are ``arrive, start, end``
    of the latest forward whose times are known, on every stage: it has arrived when the rank was ready for it, and
    starts when the last rank is. ``dummy`` stands for the rank's dummy batch, of which there is one at a time."""

    def __init__(self, group: LockstepGroup, rank: int, pp_size: int) -> None:
        self.pp_size = pp_size
        self.rank = rank
        self.stage_free_ns = [0] * pp_size
        self.times = [0] * (3 * pp_size)
        self.dummy = Step()
        self.submitted = 0
        self._group = group
        self._link_free_ns = [0] * (pp_size - 1)
        self._arrived: Arrived = _nobody
        self.hold_back: HoldBack | None = None
        self._workers: StepWorkers | None = None
        self._open: deque[tuple[int, Step, int]] = deque()
        self._latest_done_ns = 0

    def launch(self, step: Step, entry_ns: int) -> Sequence[int] | None:
        """See :class:`~penstock.engine.executor.Executor`."""
        step.done_ns = step.end_ns = UNKNOWN_NS
        index = self.submitted
        self.submitted += 1
        self._open.append((index, step, 0))
        return self.times if self._group.submit(self.rank, index, step, entry_ns, dummy=False) else None

    def launch_dummy(self, entry_ns: int) -> Sequence[int] | None:
        """Send off a dummy batch, as :meth:`launch`. It needs no activations: it can start on every stage at
        once, and sends none (vLLM ``GPUWorker.execute_dummy_batch``)."""
        self.dummy.done_ns = self.dummy.end_ns = UNKNOWN_NS
        index = self.submitted
        self.submitted += 1
        self._open.append((index, self.dummy, 0))
        known = self._group.submit(self.rank, index, self.dummy, entry_ns, dummy=True)
        return self.times if known else None

    def pass_empty(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        if self._open:
            step.done_ns = UNKNOWN_NS
            self._open.append((-1, step, now))
        else:
            self._let_pass(step, now)

    def _let_pass(self, step: Step, now: int) -> None:
        step.done_ns = max(now, self._latest_done_ns)
        if self._workers is not None:
            step.done_ns = max(step.done_ns, self._workers.passed(step, now, self.stage_free_ns))

    def serve(self, workers: StepWorkers) -> None:
        """Tell ``workers`` of the rank's steps as their turns come, empty ones too; dummy batches do not concern
        them."""
        self._workers = workers

    def ask_before_start(self, hold_back: HoldBack) -> None:
        """Whom to ask before each of the rank's own steps on each stage. All ranks wait for the answer."""
        self.hold_back = hold_back

    def when_arrived(self, arrived: Arrived) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        self._arrived = arrived

    # --- for the group --------------------------------------------------------------------------------------

    def ready_ns(self, step: Step | None, entry_ns: int) -> int:
        """When the rank is ready for its share on the first stage."""
        after = step.after if step is not None else None
        if after is not None and after.end_ns != UNKNOWN_NS and after.end_ns > entry_ns:
            return after.end_ns
        return entry_ns

    def hop(self, stage: int, hop: tuple[Sequence[int], Sequence[int]], tokens: int, end: int) -> int:
        """When the activations of ``tokens`` tokens, sent off at ``end``, are at the stage behind ``stage``."""
        arrival, occupancy = hop
        tokens = min(tokens, len(arrival) - 1)
        depart = max(self._link_free_ns[stage], end)
        self._link_free_ns[stage] = depart + occupancy[tokens]
        return depart + arrival[tokens]

    def go_on_after(self, forwards: int, times: Sequence[int], done_ns: int) -> None:
        """So many forwards were taken for all ranks at once; ``times`` and ``done_ns`` are of the last."""
        self.submitted += forwards
        self.times[:] = times
        self._latest_done_ns = done_ns

    def resolved(self, index: int, *, tell: bool) -> None:
        """The times of forward ``index``, this rank's oldest open one, are known."""
        _, step, _ = self._open.popleft()
        self._latest_done_ns = step.done_ns
        if self._workers is not None and step is not self.dummy:
            for stage in range(self.pp_size):
                self._workers.started(step, stage, self.times[3 * stage + 1], self.times[3 * stage + 2])
        if tell:
            self._arrived(step, self.times)
        while self._open and self._open[0][0] < 0:
            _, empty, now = self._open.popleft()
            self._let_pass(empty, now)
            self._arrived(empty, [now] * (3 * self.pp_size))


def _nobody(*_: object) -> None:
    """Before anyone listens."""
