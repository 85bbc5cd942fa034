"""A replica with several steps in flight takes runs of turns that hold decodes alone.

While no request arrives, joins, finishes or loses its blocks, a turn is one cohort's next token: its step goes through
the stages, a row is written, and the oldest step in flight is taken. Scheduler, executor and engine loop would decide
just that, each behind its seam. Here it is one loop over their state, which after every turn is what they would have
left. Whatever else may happen ends the run, and the engine loop goes on from there.
"""

from __future__ import annotations

from penstock.engine.local_pipeline import LocalPipeline
from penstock.engine.replica import Replica
from penstock.recording.records import TURN_COLUMNS
from penstock.scheduler.async_cohort import AsyncCohort
from penstock.scheduler.cohort import Cohort
from penstock.scheduler.step import Step
from penstock.scheduler.vllm import VllmScheduler
from penstock.scheduler.vllm_async import VllmAsyncScheduler
from penstock.spec.options import EngineOverhead


class _Turns:
    """Turns of a run, written down until the run is over: ``cells`` of the turn log, ``updates`` of results taken."""

    def __init__(self, pipeline: LocalPipeline, overhead: EngineOverhead) -> None:
        self._pipeline = pipeline
        self._submit = pipeline.submit
        self._stage_ns = pipeline.cost.stage.stage_ns
        self._return_ns = pipeline.cost.token_return_ns
        self._back_ns = pipeline.back_ns
        self._entry_ns = overhead.schedule_ns + overhead.ipc_to_first_stage_ns
        self.times = pipeline.latest_times
        self._row = len(TURN_COLUMNS) + len(self.times)
        self.cells: list[int] = []
        self.updates: list[int] = []
        self.taken = 0
        self.running = 0
        self.waiting = 0
        self.cause = 0

    def begin(self, scheduler: VllmScheduler) -> None:
        """Nothing of this changes while the run lasts."""
        self.cells = []
        self.updates = []
        self.taken = 0
        self.running = len(scheduler.running)
        self.waiting = scheduler.status().waiting
        self.cause = scheduler.cause_of_a_decode_turn()

    def send(
        self, step: Step, cohort: Cohort, context_turn: int, now: int, free: int, in_flight: int
    ) -> None:
        """Send off the next token of all members, whose contexts are their offsets and ``context_turn``."""
        size = cohort.size
        offsets = cohort.offsets
        step.cohort = cohort
        step.members = step.tokens = step.sampled = step.decodes = size
        step.decode_context = context = cohort.offset_sum + size * context_turn
        step.min_context = offsets[0] + context_turn
        step.max_context = offsets[-1] + context_turn
        entry = now + self._entry_ns
        after = step.after
        if after is not None and after.end_ns > entry:
            entry = after.end_ns
        step.end_ns = end = self._submit(entry, size, self._stage_ns(step))
        step.done_ns = done = end + self._return_ns[size] + self._back_ns
        self.taken += 1
        cells = self.cells
        # In the order of TURN_COLUMNS.
        cells += (
            now,
            now,
            self.cause,
            size,
            size,
            size,
            0,
            0,
            context,
            free,
            self.running,
            self.waiting,
            in_flight,
            done,
            0,
        )
        cells += self.times

    def end(self, replica: Replica, now: int) -> None:
        """The run is over: what is written down becomes the replica's."""
        if self.cells or self.updates:
            workers = replica.workers
            if workers is not None:
                in_flight = len(replica.steps)
                recent = min(in_flight, self.taken)
                width = len(self.times)
                ends = range(len(self.cells) - (recent - 1) * self._row, len(self.cells) + 1, self._row)
                workers.went_by(in_flight - recent, [self.cells[end - width : end] for end in ends])
            replica.go_on_after(self.taken, now, self.cells, self.updates)


def _limit_ns(scheduler: VllmScheduler, replica: Replica, limit_ns: int) -> int:
    """Until when a KV connector and its workers, if there are such, have nothing to do."""
    if scheduler.connector is not None:
        limit_ns = min(limit_ns, scheduler.connector.quiet_until_ns())
    return limit_ns if replica.workers is None else min(limit_ns, replica.workers.quiet_until_ns())


class DecodeRuns:
    """An :class:`~penstock.engine.replica.Accelerator` of replicas with a :class:`VllmScheduler` that decides on
    results, and a :class:`LocalPipeline`."""

    def __init__(self, scheduler: VllmScheduler, pipeline: LocalPipeline, overhead: EngineOverhead) -> None:
        self._scheduler = scheduler
        self._overhead = overhead
        self._turns = _Turns(pipeline, overhead)

    def take_turns(self, replica: Replica, limit_ns: int) -> bool:
        """See :class:`~penstock.engine.replica.Accelerator`."""
        scheduler = self._scheduler
        cohort = scheduler.ready
        if cohort is None or replica.has_news or not scheduler.has_only_decodes():
            return False
        limit_ns = _limit_ns(scheduler, replica, limit_ns)
        # To begin a run costs as much as a turn: one in which no step comes back does not pay.
        if replica.now_ns >= limit_ns or (replica.steps and replica.steps[0].done_ns >= limit_ns):
            return False
        turns = self._turns
        turns.begin(scheduler)
        schedule_ns, update_ns = self._overhead.schedule_ns, self._overhead.update_ns
        kv = scheduler.kv
        budget = scheduler.options.max_num_batched_tokens
        times = scheduler.keep_token_times
        gaps = scheduler.token_gaps
        steps = replica.steps
        depth = replica.options.max_in_flight
        number = scheduler.scheduled
        now = replica.now_ns
        blocks = False
        step = scheduler.new_step()
        returned = 0
        while now < limit_ns:
            turn = cohort.turn
            need = cohort.block_needs[turn % cohort.block_size]
            if need > kv.free or cohort.size >= budget or cohort.block_fills:
                break
            if need:
                kv.take(need)
            number += 1
            step.number = number
            cohort.step = step
            turns.send(step, cohort, turn - 1, now, kv.free, len(steps))
            steps.append(step)
            now += schedule_ns
            cohort = None
            if len(steps) < depth:
                break
            step = steps[0]
            at = step.done_ns
            if at < now:
                at = now
            cohort = step.cohort
            if (
                at >= limit_ns
                or cohort is None
                or not step.is_plain
                or cohort.turn + 1 in cohort.finish_at
                or cohort.irregular
                or not cohort.size
            ):
                cohort = None
                blocks = True
                break
            steps.popleft()
            returned += 1
            cohort.turn += 1
            cohort.step = None
            gaps.append(at - cohort.last_ns)
            gaps.append(step.members)
            cohort.last_ns = at
            if times:
                cohort.times.append(at)
            turns.updates.append(at)
            now = at + update_ns
        scheduler.go_on_after(turns.taken, returned, cohort)
        if cohort is not None:
            scheduler.spare(step)
        turns.end(replica, now)
        return blocks and replica.block_on_oldest()


class AsyncDecodeRuns:
    """The same for a :class:`VllmAsyncScheduler`."""

    def __init__(
        self, scheduler: VllmAsyncScheduler, pipeline: LocalPipeline, overhead: EngineOverhead
    ) -> None:
        self._scheduler = scheduler
        self._overhead = overhead
        self._turns = _Turns(pipeline, overhead)

    def take_turns(self, replica: Replica, limit_ns: int) -> bool:
        """See :class:`~penstock.engine.replica.Accelerator`."""
        scheduler = self._scheduler
        if scheduler.ready is not None or replica.has_news or not scheduler.has_only_decodes():
            return False
        turns = self._turns
        turns.begin(scheduler)
        schedule_ns, update_ns = self._overhead.schedule_ns, self._overhead.update_ns
        kv = scheduler.kv
        budget = scheduler.options.max_num_batched_tokens
        times = scheduler.keep_token_times
        gaps = scheduler.token_gaps
        steps = replica.steps
        depth = replica.options.max_in_flight
        resting = scheduler.resting
        calls_between = scheduler.calls_between
        number = scheduler.scheduled
        now = replica.now_ns
        blocks = False
        spare: Step | None = None
        returned = 0
        while now < limit_ns:
            if not resting or resting[0][0] > number or (len(resting) > 1 and resting[1][0] <= number):
                break
            cohort: AsyncCohort = resting[0][1]
            turn = cohort.turn
            size = cohort.size
            need = cohort.block_needs[turn % cohort.block_size]
            if (
                not 0 < size < budget
                or need > kv.free
                or turn + 1 in cohort.finish_at
                or cohort.joining
                or cohort.block_fills
            ):
                break
            resting.popleft()
            if need:
                kv.take(need)
            step = spare if spare is not None else scheduler.new_step()
            spare = None
            step.number = number = number + 1
            in_flight = cohort.steps
            step.after = in_flight[-1] if in_flight else None
            turns.send(step, cohort, turn - 1, now, kv.free, len(steps))
            cohort.turn = step.turn = turn + 1
            step.known_turn = cohort.returned
            in_flight.append(step)
            steps.append(step)
            resting.append((number + calls_between - 1, cohort))
            now += schedule_ns
            if len(steps) < depth:
                break
            step = steps[0]
            at = step.done_ns
            if at < now:
                at = now
            back = step.cohort
            if at >= limit_ns or back is None or not step.is_plain:
                blocks = True
                break
            assert isinstance(back, AsyncCohort)
            turn = step.turn
            if turn in back.finish_at or back.block_fills or step.members <= 0:
                blocks = True
                break
            steps.popleft()
            back.steps.popleft()
            back.returned = turn
            returned += 1
            gaps.append(at - back.last_ns)
            gaps.append(step.members)
            back.last_ns = at
            if times:
                back.times.append(at)
            turns.updates.append(at)
            now = at + update_ns
            spare = step
        if spare is not None:
            spare.after = None
            scheduler.spare(spare)
        scheduler.go_on_after(turns.taken, returned, None)
        turns.end(replica, now)
        return blocks and replica.block_on_oldest()
