"""Ranks in lock-step take runs of forwards that hold decodes alone, all ranks in one loop.

While every rank has a cohort of decodes under way, nobody ends, no message comes and blocks suffice, a forward is one
token for each request of every rank: the hosts take the tokens, schedule the same cohorts again, and the forward begins
with the last of them. Scheduler, pipeline and engine loop of each rank would come to just that, one event at a time.
Whatever else may happen ends the run, and the loops of the ranks go on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock.engine.kernel import Agenda
from penstock.engine.lockstep import LockstepGroup
from penstock.engine.lockstep_replica import LockstepReplica
from penstock.scheduler.cohort import Cohort
from penstock.scheduler.step import UNKNOWN_NS, Step
from penstock.scheduler.vllm import VllmScheduler


class _Rank:
    """A rank while a run lasts. ``step`` is its share of the forward under way, ``cohort`` the decodes in it;
    ``cells`` and ``updates`` are what it
    has to write down. It is at ``now_ns``, and schedules next at ``next_ns``."""

    def __init__(self, replica: LockstepReplica, scheduler: VllmScheduler, group: LockstepGroup) -> None:
        self.replica = replica
        self.scheduler = scheduler
        self.pipeline = replica.pipeline
        self.kv = scheduler.kv
        self.gaps = scheduler.token_gaps
        self.budget = scheduler.options.max_num_batched_tokens
        overhead = replica.overhead
        self.update_ns = overhead.update_ns
        self.schedule_ns = overhead.schedule_ns
        self.entry_ns = overhead.schedule_ns + overhead.ipc_to_first_stage_ns
        self.return_ns = group.return_ns
        self.step = Step()
        self.cohort = Cohort(1)
        self.cells: list[int] = []
        self.updates: list[int] = []
        self.now_ns = self.next_ns = 0
        self.constant = (0, 0, 0)

    def is_ready(self, forwards: int) -> bool:
        """Whether all it waits for is a forward of decodes, which is known and the latest of all."""
        replica, scheduler = self.replica, self.scheduler
        step = replica.awaited
        if step is None or step.done_ns == UNKNOWN_NS or self.pipeline.submitted != forwards:
            return False
        cohort = step.cohort
        if (
            cohort is None
            or cohort.irregular
            or cohort.block_fills
            or not cohort.size
            or not step.is_plain
            or scheduler.ready is not None
            or not replica.is_undisturbed
            or not scheduler.has_only_decodes()
        ):
            return False
        self.step, self.cohort = step, cohort
        return True

    def begin(self) -> None:
        """Nothing of this changes while the run lasts."""
        scheduler = self.scheduler
        self.cells, self.updates = [], []
        waiting = scheduler.status().waiting
        self.constant = (scheduler.cause_of_a_decode_turn(), len(scheduler.running), waiting)

    def end(self, turns: int) -> None:
        """The run is over: what happened in it becomes the rank's."""
        replica = self.replica
        step = self.step
        step.number += turns
        step.row += turns
        self.scheduler.go_on_after(turns, turns, None)
        replica.go_on_after_run(turns, self.now_ns, self.cells, self.updates, step.done_ns)


class LockstepRuns:
    """Runs of a group with one stage, whose ranks decide on results and have no KV connector. ``ranks`` are all of
    them, with vLLM's scheduler each."""

    def __init__(
        self,
        group: LockstepGroup,
        ranks: Sequence[tuple[LockstepReplica, VllmScheduler]],
        agenda: Agenda,
        sync_interval: int,
    ) -> None:
        self._group = group
        self._ranks = [_Rank(replica, scheduler, group) for replica, scheduler in ranks]
        self._actors = frozenset(replica for replica, _ in ranks)
        self._agenda = agenda
        self._sync_interval = sync_interval
        self._tried = -1

    def take_turns(self) -> bool:
        """Take forwards for as long as all ranks have nothing but decodes. To be called by a rank whose share of the
        latest forward has come back; False where that has to be taken the usual way."""
        group = self._group
        forwards = group.forwards
        if forwards == self._tried or group.watcher is not None:
            return False
        self._tried = forwards
        ranks = self._ranks
        for rank in ranks:
            if not rank.is_ready(forwards):
                return False
        most = min(rank.cohort.turns_alike() for rank in ranks)
        if most < 1:
            return False
        limit_ns = self._agenda.next_of_others(self._actors)
        for rank in ranks:
            rank.begin()
        turns = 0
        counter = ranks[0].replica.step_counter
        while turns < most and self._take_one(limit_ns, counter + turns + 1):
            turns += 1
        if not turns:
            return False
        for rank in ranks:
            rank.end(turns)
        group.forwards = self._tried = forwards + turns
        return True

    def _take_one(self, limit_ns: int, counter: int) -> bool:
        """Take the forward under way and send off the next; False, and nothing done, where that is not all."""
        ranks = self._ranks
        latest = 0
        for rank in ranks:
            rank.next_ns = now = rank.step.done_ns + rank.update_ns
            if now > latest:
                latest = now
            cohort = rank.cohort
            if (
                cohort.size >= rank.budget
                or cohort.block_needs[(cohort.turn + 1) % cohort.block_size] > rank.kv.free
            ):
                return False
        group = self._group
        if counter % self._sync_interval == 0:
            latest += group.sync_ns
            for rank in ranks:
                rank.next_ns = latest
        if latest >= limit_ns:
            return False
        steps: list[Step] = []
        for rank in ranks:
            step, cohort = rank.step, rank.cohort
            at = step.done_ns
            cohort.turn = turn = cohort.turn + 1
            rank.gaps.append(at - cohort.last_ns)
            rank.gaps.append(step.members)
            cohort.last_ns = at
            if rank.scheduler.keep_token_times:
                cohort.times.append(at)
            rank.updates.append(at)
            need = cohort.block_needs[turn % cohort.block_size]
            if need:
                rank.kv.take(need)
            offsets = cohort.offsets
            step.decode_context = cohort.offset_sum + cohort.size * (turn - 1)
            step.min_context = offsets[0] + turn - 1
            step.max_context = offsets[-1] + turn - 1
            steps.append(step)
        self._run(steps)
        return True

    def _run(self, steps: Sequence[Step]) -> None:
        group = self._group
        (compute,) = group.cost.forward_ns(steps)
        start = ready_sum = latest = 0
        ranks = self._ranks
        for number, rank in enumerate(ranks):
            ready = rank.next_ns + rank.entry_ns
            free = rank.pipeline.stage_free_ns[0]
            if free > ready:
                ready = free
            ready_sum += ready
            if ready > start:
                start, latest = ready, number
        group.waited_for_ns[latest] += group.size * start - ready_sum
        end = start + compute
        padded = group.cost.padded_tokens(steps)
        if padded:
            group.padding_tokens += padded * group.size - sum(step.tokens for step in steps)
        for rank in ranks:
            step = rank.step
            size = step.members
            now = rank.next_ns
            rank.now_ns = now + rank.schedule_ns
            step.end_ns = end
            step.done_ns = done = end + rank.return_ns[size] + group.back_ns
            rank.pipeline.stage_free_ns[0] = end
            cause, running, waiting = rank.constant
            # In the order of TURN_COLUMNS, and the stage's arrive, start, end.
            rank.cells += (
                now,
                now,
                cause,
                size,
                size,
                size,
                0,
                0,
                step.decode_context,
                rank.kv.free,
                running,
                waiting,
                0,
                done,
                0,
                now + rank.entry_ns,
                start,
                end,
            )
