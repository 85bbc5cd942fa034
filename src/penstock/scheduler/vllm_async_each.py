"""Async scheduling, every turn decided request by request.

The same decisions as :mod:`~penstock.scheduler.vllm_async` where that has to hold: for any number of steps in flight,
beyond the number at which a request may be scheduled past its end, and with a KV connector.
"""

from __future__ import annotations

from array import array

from penstock.scheduler.kv_cache import KVCache
from penstock.scheduler.kv_connector import KVConnector
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.scheduler.vllm import VllmScheduler, by_order
from penstock.spec.options import SchedulerOptions


class VllmAsyncEachScheduler(VllmScheduler):
    """With the V2 model runner a decode is eligible again ``pp_size`` calls of schedule() after its last."""

    decides_on_results = False

    def __init__(
        self,
        options: SchedulerOptions,
        num_gpu_blocks: int,
        pp_size: int,
        *,
        policy: Policy | None = None,
        connector: KVConnector | None = None,
        kv: KVCache | None = None,
        keep_token_times: bool = True,
    ) -> None:
        super().__init__(
            options,
            num_gpu_blocks,
            policy=policy,
            connector=connector,
            kv=kv,
            keep_token_times=keep_token_times,
            exact_only=True,
        )
        self._eligible_after = pp_size if options.v2_model_runner else 0
        self._calls = 0

    def schedule(self, now: int) -> Step:
        """Decide the next step; it may be empty."""
        self._calls += 1
        self._decodes_taken.clear()
        self.exact_turns += bool(self.running)
        return super().schedule(now)

    def _send(self, step: Step) -> None:
        """Its tokens are taken request by request."""

    def _schedule_running(self, step: Step, budget: int, threshold: int) -> int:
        limits = self._limits
        for state in list(self.running):
            if budget <= 0:
                break
            if state not in self.running:
                continue  # preempted by one before it
            if self._has_all_in_flight(state) or self._calls < state.eligible_at:
                continue
            if self._defers_prefills and state in self.partials:
                continue
            computed = state.num_computed
            new = state.num_tokens + state.placeholders - computed
            if threshold and new > threshold:
                new = threshold
            new = min(new, budget, self.options.max_model_len - 1 - computed)
            decodes = limits is not None and state not in self.partials
            if limits is not None:
                if not decodes:
                    new = min(new, limits.allowed_chunk(state, computed))
                elif not limits.allows_decode(state):
                    continue
            if new <= 0:
                continue
            need = self.kv.blocks_for(computed + new) - state.held_blocks
            if not self._make_room(step, state, need):
                self._budget_back = 0
                return budget if self._is_blocked else -1
            was_partial = computed < state.num_tokens and not state.placeholders
            self._grant(step, state, new, need)
            if was_partial and state.placeholders and state in self.partials:
                self.partials.remove(state)
            if limits is not None:
                if decodes:
                    limits.spend_decode()
                    self._decodes_taken[state] = None
                else:
                    limits.spend_chunk(new)
                    self._join_slot(state, limits.slot)
            budget += self._budget_back - new
            self._budget_back = 0
        return budget

    @staticmethod
    def _has_all_in_flight(state: RequestState) -> bool:
        """The tokens in flight are the last ones that were asked for."""
        request = state.request
        wanted = request.input_tokens + request.output_tokens
        return state.placeholders > 0 and state.num_computed + 2 - state.placeholders >= wanted

    def _grant(self, step: Step, state: RequestState, new: int, need: int) -> None:
        computed = state.num_computed
        self.kv.take(need)
        state.held_blocks += need
        state.num_computed = computed + new
        previous = state.latest_step
        is_dropped = self.returned < state.latest_number <= state.dropped_through
        if is_dropped and previous is not None and state in previous.sampling:
            step.wait_for(previous)  # its token does not count, but it is on its way all the same
        if self.by_priority:
            self._before[state] = previous, state.latest_number
        state.latest_step = step
        state.latest_number = step.number
        state.hashed_tokens = min(computed + new, state.num_tokens)
        self.kv.register(state, state.hashed_tokens)
        step.add_chunk(state, new, computed)
        if state.num_computed < state.num_tokens + state.placeholders:
            return
        if state.placeholders and previous is not None:
            step.wait_for(previous)
        state.placeholders += 1
        state.eligible_at = self._calls + self._eligible_after
        step.sampling.append(state)
        step.sampled += 1

    def _take_out(self, step: Step, victim: RequestState) -> None:
        if victim not in self._before:
            return
        previous, number = self._before.pop(victim)
        if victim in step.sampling:
            victim.placeholders -= 1
        tokens = step.take_out(victim)
        victim.latest_step, victim.latest_number = previous, number
        step.after = None
        for state in step.sampling:
            earlier = self._before[state][0]
            if state.placeholders > 1 and earlier is not None:
                step.wait_for(earlier)
        if self._limits is not None:
            if victim in self._decodes_taken:
                self._limits.give_back_decode()
            else:
                self._limits.give_back_chunk(tokens)
        self._budget_back += tokens

    def _preempt(self, victim: RequestState, step: Step) -> None:
        """As ever, but the tokens in flight are in steps that know the request still."""
        del self.running[victim]
        if victim in self.partials:
            self.partials.remove(victim)
        self._evict(victim, victim.num_computed, victim.hashed_tokens, step)

    def _withdraw(self, state: RequestState, computed: int) -> int:
        if state in self.partials:
            self.partials.remove(state)
        return computed

    def _take_tokens(self, step: Step, now: int) -> list[RequestState]:
        self._spare_steps.append(step)
        finished: list[RequestState] = []
        for state in step.sampling:
            if state.num_tokens == state.final_tokens or state.outcome is Outcome.ABORTED:
                continue  # it has ended with an earlier step; what was scheduled beyond is dropped
            if step.number <= state.dropped_through:
                continue
            self._deliver(state, now, gap_is_logged=False)
            state.placeholders -= 1
            if self.keep_token_times:
                self._note_time(state, now)
            is_running = state in self.running
            if is_running:
                state.hashed_tokens = max(state.hashed_tokens, state.num_computed - state.placeholders)
                self.kv.register(state, state.hashed_tokens)
            if state.num_tokens == state.final_tokens:
                if not is_running:
                    self._leave_waiting(state)
                finished.append(state)
        if finished:
            finished.sort(key=by_order)
            self._finish(finished, now)
        return finished

    @staticmethod
    def _note_time(state: RequestState, now: int) -> None:
        times = state.own_times
        if times is None:
            times = state.own_times = array("q")
        times.append(now)
        state.segments = [(times, 0, len(times))]
