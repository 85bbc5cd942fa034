"""Async scheduling: a request is scheduled again before its last token is known.

vLLM's ``v1/core/sched/async_scheduler.py``. Each step that samples for a request leaves a placeholder for the
token to come, and the next step may already build on it. The decodes of one step become eligible again at the same
call of schedule(), so they are one :class:`~penstock.scheduler.async_cohort.AsyncCohort`: it advances when it is
scheduled, and is settled when a result comes back.
"""

from __future__ import annotations

from collections import deque

from penstock.scheduler.async_cohort import AsyncCohort
from penstock.scheduler.cohort import Cohort
from penstock.scheduler.kv_cache import KVCache
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.scheduler.vllm import VllmScheduler, by_order, order_of_entry
from penstock.spec.options import SchedulerOptions


def calls_between_tokens(options: SchedulerOptions, pp_size: int) -> int:
    """After how many calls of schedule() a decode is eligible again: with the V2 model runner as many as there are
    stages, otherwise at the next."""
    return pp_size if options.v2_model_runner else 1


class VllmAsyncScheduler(VllmScheduler):
    """An :class:`~penstock.scheduler.protocol.EngineScheduler` without a KV connector, for at most twice as many
    steps in flight as :func:`calls_between_tokens`: then at most one token of a request is in flight when the next
    is scheduled, and which is its last is known."""

    decides_on_results = False

    def __init__(
        self,
        options: SchedulerOptions,
        num_gpu_blocks: int,
        pp_size: int,
        *,
        policy: Policy | None = None,
        kv: KVCache | None = None,
        keep_token_times: bool = True,
    ) -> None:
        super().__init__(options, num_gpu_blocks, policy=policy, kv=kv, keep_token_times=keep_token_times)
        self.calls_between = calls_between_tokens(options, pp_size)
        # Cohorts with the number of the call from which they are eligible again, in that order.
        self.resting: deque[tuple[int, AsyncCohort]] = deque()

    def schedule(self, now: int) -> Step:
        """Decide the next step; it may be empty."""
        resting = self.resting
        while resting and resting[0][0] <= self.scheduled:
            cohort = resting.popleft()[1]
            if not cohort.size:
                continue
            if self.ready is None:
                self.ready = cohort
            else:
                self._merge(cohort)
        return super().schedule(now)

    def _send(self, step: Step) -> None:
        cohort = step.cohort
        if cohort is None:
            cohort = step.cohort = AsyncCohort(self.kv.block_size)
        assert isinstance(cohort, AsyncCohort)
        cohort.send(step)
        if self._limits is not None:
            cohort.slot = self._limits.slot
        for state in step.sampling:
            cohort.admit(state, caches=self.kv.notes_fills(state))
            if state.slot != cohort.slot:
                cohort.slot = None
        if cohort.size:
            self.resting.append((step.number + self.calls_between - 1, cohort))

    def _new_cohort(self) -> Cohort:
        return AsyncCohort(self.kv.block_size)

    def _retire(self, cohort: Cohort) -> None:
        """Its steps in flight know it still."""

    def _register_decode(self, state: RequestState) -> None:
        cohort = state.cohort
        assert isinstance(cohort, AsyncCohort)
        self.kv.register(state, cohort.known_tokens(state))

    def _move(self, state: RequestState, cohort: Cohort, other: Cohort) -> None:
        assert isinstance(cohort, AsyncCohort)
        assert isinstance(other, AsyncCohort)
        caches = cohort.detach(state, delivers=True)
        other.take_over(state, caches=caches)

    def _preempt(self, victim: RequestState, step: Step) -> None:
        """As ever, but the tokens in flight are in steps that know the request still."""
        del self.running[victim]
        cohort = victim.cohort
        if cohort is not None:
            assert isinstance(cohort, AsyncCohort)
            is_taken = self._decodes_taken.pop(victim, victim) is None
            cohort.detach(victim, delivers=True)
            if not cohort.size and self._parked:
                self._forget(cohort)
            if is_taken:
                victim.num_computed += 1
                victim.hashed_tokens = victim.num_tokens
        else:
            victim.hashed_tokens = victim.num_computed
            self.partials.remove(victim)
        self._evict(victim, victim.num_computed, victim.hashed_tokens, step)

    def _withdraw(self, state: RequestState, computed: int) -> int:
        cohort = state.cohort
        if cohort is None:
            self.partials.remove(state)
            return computed
        assert isinstance(cohort, AsyncCohort)
        cohort.detach(state, delivers=False)
        if not cohort.size:
            self._forget(cohort)
        return state.num_computed

    def _take_tokens(self, step: Step, now: int) -> list[RequestState]:
        self._spare_steps.append(step)
        cohort = step.cohort
        if cohort is None:
            return []
        assert isinstance(cohort, AsyncCohort)
        turn = step.turn
        cohort.steps.popleft()
        cohort.returned = turn
        step.after = None
        joining = step.joining
        regular = step.members - len(joining)
        if regular:
            self.token_gaps.append(now - cohort.last_ns)
            self.token_gaps.append(regular)
        cohort.last_ns = now
        if self.keep_token_times:
            cohort.times.append(now)
        for state in (*step.sampling, *joining):
            self._deliver(state, now, gap_is_logged=False)
        joining.clear()
        filled = cohort.filled(turn) if cohort.block_fills else []
        finished: list[RequestState] = []
        for state in step.apart:
            if state.outcome is Outcome.ABORTED:
                continue
            self._deliver(state, now, gap_is_logged=False)
            state.placeholders -= 1
            self._note_last_time(state, cohort)
            if state in self.running:
                filled.append((state, state.num_tokens - 1))
                state.hashed_tokens = max(state.hashed_tokens, state.num_tokens - 1)
            elif state.num_tokens == state.final_tokens:
                self._leave_waiting(state)
                finished.append(state)
        step.apart.clear()
        if filled:
            filled.sort(key=order_of_entry)
            for state, tokens in filled:
                self.kv.register(state, tokens)
        if turn in cohort.finish_at:
            finished += cohort.ended(turn)
        if finished:
            finished.sort(key=by_order)
            self._finish(finished, now)
        return finished
