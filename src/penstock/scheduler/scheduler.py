"""Continuous batching as vLLM V1 does it (``v1/core/sched/scheduler.py: Scheduler.schedule``).

Running requests first, in the order of their admission, then waiting ones, first come first served; prefills in
chunks; preemption by recompute. Nothing sorts requests into micro-batches: each call takes everything that has no
token in flight.

The decodes that came back with the last update are one :class:`Cohort` and are taken whole, at a cost that does
not depend on their number, whenever budget and blocks suffice for all of them and no prefill stands before any of
them. Otherwise the same turn is decided request by request (:meth:`Scheduler._schedule_each`), with the same
result, and the cohort goes on with those that were taken.
"""

from __future__ import annotations

from array import array
from collections import deque
from operator import attrgetter

from penstock.scheduler.cohort import Cohort
from penstock.scheduler.kv_cache import CachedBlock, KVCache
from penstock.scheduler.policies.limits import Policy, StepLimits
from penstock.scheduler.policies.view import PolicyView
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.options import SchedulerOptions

by_order = attrgetter("order")


class Scheduler:
    """Which tokens are computed next. Knows no time but what it is told.

    ``ready`` are the decodes with nothing in flight, ``partials`` the running requests with prompt left to
    schedule, in order of admission; all other running requests wait for a token in flight. After
    :meth:`schedule`, ``out_of_budget`` says that the token budget ended it, ``out_of_capacity`` that blocks or
    ``max_num_seqs`` kept a waiting request out. ``exact_only`` decides every turn request by request.
    """

    lockstep = True
    """Whether decodes are kept in cohorts."""

    def __init__(
        self,
        options: SchedulerOptions,
        num_gpu_blocks: int,
        *,
        policy: Policy | None = None,
        keep_token_times: bool = True,
        exact_only: bool = False,
    ) -> None:
        self.options = options
        self.policy = policy
        self.kv = KVCache(num_gpu_blocks, options.block_size, prefix_caching=options.enable_prefix_caching)
        self.watermark_blocks = int(options.watermark * num_gpu_blocks)
        self.keep_token_times = keep_token_times
        self.exact_only = exact_only
        self.waiting: deque[RequestState] = deque()
        self.running: dict[RequestState, None] = {}
        self.ready: Cohort | None = None
        self.partials: list[RequestState] = []
        self.finished_unreported = False
        self.out_of_budget = False
        self.out_of_capacity = False
        self.preemptions = 0
        self.cohort_turns = 0
        self.exact_turns = 0
        # Pairs (gap_ns, how many): all inter-token latencies, without a list per request.
        self.token_gaps: array[int] = array("q")
        self._spare_cohorts: list[Cohort] = []
        self._spare_steps: list[Step] = []
        # Steps come back in the order in which they left, so two counts say which are on their way.
        self._scheduled = 0
        self._returned = 0
        self._next_order = 0
        self._max_tokens = options.max_num_batched_tokens
        self._max_seqs = options.max_num_seqs
        self._threshold = options.long_prefill_token_threshold
        self._limits: StepLimits | None = None
        self._view = PolicyView(self)

    def add(self, state: RequestState) -> None:
        """Queue a request behind all waiting ones."""
        self.waiting.append(state)

    def has_work(self) -> bool:
        """Whether the engine would call schedule(): unfinished requests, or finished ones that the workers
        have not been told of (``Scheduler.has_requests``)."""
        return bool(self.running) or bool(self.waiting) or self.finished_unreported

    # --- schedule ---------------------------------------------------------------------------------------------

    def schedule(self, now: int) -> Step:
        """Decide the next step; it may be empty."""
        spare = self._spare_steps
        if spare:
            step = spare.pop()
            step.clear()
        else:
            step = Step()
        self._scheduled += 1
        step.number = self._scheduled
        budget = self._max_tokens
        threshold = self._threshold
        if threshold and len(self.running) + len(self.waiting) == 1:
            threshold = 0
        self.finished_unreported = False
        self.out_of_budget = self.out_of_capacity = False
        if self.policy is not None:
            self._limits = self.policy.limits(self._view)
        budget = self._schedule_running(step, budget, threshold)
        if step.preempted:
            self.out_of_capacity = True
        elif self.waiting and budget > 0:
            if len(self.running) < self._max_seqs:
                budget = self._admit(step, budget, threshold, now)
            else:
                self.out_of_capacity = True
        if budget == 0:
            self.out_of_budget = True
        if step.sampled and self.lockstep:
            cohort = step.cohort
            if cohort is None:
                cohort = step.cohort = self._new_cohort()
            cohort.step = step
        return step

    def _schedule_running(self, step: Step, budget: int, threshold: int) -> int:
        """The running requests in order; returns the budget left, or -1 if one had to preempt itself."""
        cohort = self.ready
        partials = self.partials
        if cohort is not None:
            phase = cohort.turn % cohort.block_size
            need = cohort.needs[phase]
            kv = self.kv
            if (
                cohort.size > budget
                or need > kv.free
                or (partials and partials[0].order < cohort.last_order)
                or self._limits is not None
                or self.exact_only
            ):
                self.exact_turns += 1
                return self._schedule_each(step, budget, threshold)
            # In lock-step: all of them go, each with one token.
            if need:
                kv.take(need)
            if cohort.due:
                for state in sorted(cohort.due.get(phase, ()), key=by_order):
                    kv.register(state, state.offset + cohort.turn)
            step.add_members(cohort)
            budget -= cohort.size
            self.ready = None
        elif not partials:
            return budget
        elif self._limits is not None or self.exact_only:
            self.exact_turns += 1
            return self._schedule_each(step, budget, threshold)
        self.cohort_turns += 1
        if partials:
            for state in partials[:]:
                if budget <= 0:
                    break
                budget = self._schedule_chunk(step, state, budget, threshold)
        return budget

    def _schedule_each(self, step: Step, budget: int, threshold: int) -> int:
        """The running requests one by one; returns the budget left, or -1 if a request had to preempt itself."""
        kv = self.kv
        limits = self._limits
        cohort = self.ready
        members = cohort.members if cohort is not None else {}
        taken: dict[RequestState, None] = {}
        for state in sorted([*members, *self.partials], key=by_order):
            if budget <= 0 or state not in self.running:
                break
            if state.cohort is None:
                budget = self._schedule_chunk(step, state, budget, threshold)
                continue
            if limits is not None and not limits.allows_decode(state):
                continue
            tokens = state.offset + state.cohort.turn
            need = kv.blocks_for(tokens) - kv.blocks_for(tokens - 1)
            if need and not self._make_room(step, state, need):
                budget = -1
                break
            kv.take(need)
            kv.register(state, tokens)
            taken[state] = None
            budget -= 1
            if limits is not None:
                limits.spend_decode()
        if cohort is not None:
            self._part(step, cohort, taken)
        return budget

    def _part(self, step: Step, cohort: Cohort, taken: dict[RequestState, None]) -> None:
        """``taken`` go into the step; whoever is left stays ready, in another cohort. The fewer move."""
        left = [state for state in cohort.members if state not in taken]
        if not taken:
            self.ready = cohort if left else None
            return
        self.ready = None
        # Chunks of one token have been counted as decodes already; add_members() starts from nothing.
        chunk_decodes = step.decodes, step.decode_context, step.min_context, step.max_context
        if left:
            other = self._new_cohort()
            for state in left if len(left) <= len(taken) else taken:
                cohort.move(state, other)
            if len(left) <= len(taken):
                self.ready = other
            else:
                self.ready, cohort = cohort, other
        step.add_members(cohort)
        decodes, context, shortest, longest = chunk_decodes
        if decodes:
            step.decodes += decodes
            step.decode_context += context
            step.min_context = min(step.min_context, shortest)
            step.max_context = max(step.max_context, longest)

    def _schedule_chunk(self, step: Step, state: RequestState, budget: int, threshold: int) -> int:
        """The next chunk of a running request; returns the budget left, or -1 if it had to preempt itself."""
        if state not in self.running:
            return budget
        computed = state.num_computed
        new = state.num_tokens - computed
        if threshold and new > threshold:
            new = threshold
        new = min(new, budget, self.options.max_model_len - 1 - computed)
        limits = self._limits
        if limits is not None:
            new = min(new, limits.allowed_chunk(state, computed))
        if new <= 0:
            return budget
        need = self.kv.blocks_for(computed + new) - state.held_blocks
        if not self._make_room(step, state, need):
            return -1
        self._grant(step, state, new, need)
        if limits is not None:
            limits.spend_chunk(new)
        if state.num_computed == state.num_tokens:
            self.partials.remove(state)
        return budget - new

    def _grant(self, step: Step, state: RequestState, new: int, need: int) -> None:
        """Blocks and a place in the step for ``new`` tokens of a prefill."""
        computed = state.num_computed
        self.kv.take(need)
        state.held_blocks += need
        state.num_computed = computed + new
        state.latest_step = step
        state.latest_number = step.number
        self.kv.register(state, computed + new)
        step.add_chunk(state, new, computed)
        if state.num_computed == state.num_tokens:
            step.graduates.append(state)
            step.sampled += 1

    # --- waiting ----------------------------------------------------------------------------------------------

    def _admit(self, step: Step, budget: int, threshold: int, now: int) -> int:
        """Admit waiting requests, first come first served, until one cannot be; returns the budget left."""
        options = self.options
        kv = self.kv
        limits = self._limits
        waiting = self.waiting
        skipped: list[RequestState] = []
        while waiting and budget > 0:
            if len(self.running) >= self._max_seqs:
                self.out_of_capacity = True
                break
            if limits is not None and not limits.admissions:
                self.out_of_budget = True
                break
            state = waiting[0]
            if state.latest_number > self._returned:
                # Preempted while a step computes it: that comes back first, others may overtake.
                skipped.append(waiting.popleft())
                continue
            hits = kv.find_prefix(state)
            computed = len(hits) * kv.block_size
            new = state.num_tokens - computed
            if threshold and new > threshold:
                new = threshold
            room = budget if limits is None else min(budget, limits.allowed_chunk(state, computed))
            if not room or (new > room and not options.enable_chunked_prefill):
                self.out_of_budget = True
                break
            new = min(new, room)
            claim = kv.blocks_for(state.num_tokens if options.reserve_full_isl else computed + new) - len(
                hits
            )
            if hits:
                claim += kv.count_unused(hits)
            if self.watermark_blocks and self.running:
                claim += self.watermark_blocks
            if claim > kv.free:
                self.out_of_capacity = True
                break
            waiting.popleft()
            self._start(state, hits, now)
            if limits is not None:
                limits.spend_chunk(new)
                limits.admissions -= 1
                state.slot = limits.slot
            self._grant(step, state, new, kv.blocks_for(computed + new) - len(hits))
            if state.num_computed < state.num_tokens:
                self.partials.append(state)
            budget -= new
        waiting.extendleft(reversed(skipped))
        return budget

    def _start(self, state: RequestState, hits: list[CachedBlock], now: int) -> None:
        """A waiting request runs, its prefix hits as its first blocks."""
        if hits:
            self.kv.use(state, hits)
        state.held_blocks = len(hits)
        state.num_computed = len(hits) * self.kv.block_size
        if state.first_scheduled_ns is None:
            state.first_scheduled_ns = now
            state.cached_tokens = state.num_computed
        state.order = self._next_order
        self._next_order += 1
        self.running[state] = None

    # --- preemption -------------------------------------------------------------------------------------------

    def _make_room(self, step: Step, state: RequestState, need: int) -> bool:
        """Preempt from the end of the running requests until ``need`` blocks are free; False if ``state``
        itself had to go."""
        while need > self.kv.free:
            victim = next(reversed(self.running))
            self._preempt(victim, step)
            if victim is state:
                return False
        return True

    def _preempt(self, victim: RequestState, step: Step) -> None:
        """Free everything of a running request and put it at the head of the waiting ones. A token that is
        in flight will still be delivered."""
        del self.running[victim]
        computed = victim.num_computed
        cohort = victim.cohort
        if cohort is not None:
            in_flight = cohort.step
            tokens = victim.offset + cohort.turn
            computed = tokens if in_flight else tokens - 1
            cohort.leave(victim)
            if in_flight is not None:
                victim.latest_number = in_flight.number
                in_flight.late.append((victim, True))
            else:
                cohort.irregular.pop(victim, None)
        elif victim.num_computed < victim.num_tokens:
            self.partials.remove(victim)
        elif victim.latest_step is not None:
            victim.latest_step.graduates.remove(victim)
            victim.latest_step.late.append((victim, False))
        self._evict(victim, computed, step)

    def _evict(self, victim: RequestState, computed: int, step: Step) -> None:
        """Free the blocks that ``computed`` tokens of a request take that no longer runs, and queue it first."""
        self.kv.release(victim, computed, victim.num_tokens)
        victim.held_blocks = 0
        victim.slot = None
        victim.num_computed = 0
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.appendleft(victim)
        step.preempted.append(victim)

    # --- update -----------------------------------------------------------------------------------------------

    def update(self, step: Step, now: int) -> list[RequestState]:
        """Take the tokens of a step that has come back; returns the requests that this finishes, in the
        order of the step."""
        self._returned += 1
        self._spare_steps.append(step)
        cohort = step.cohort
        if cohort is None:
            return []
        turn = cohort.turn + 1
        cohort.turn = turn
        members = step.members
        if members:
            if cohort.irregular:
                members -= self._log_irregular_gaps(cohort, now)
            self.token_gaps.append(now - cohort.last_ns)
            self.token_gaps.append(members)
        cohort.last_ns = now
        if self.keep_token_times:
            cohort.times.append(now)
        finished: list[RequestState] = []
        done = cohort.finish_at.pop(turn, None)
        if done is not None:
            for state in done:
                cohort.drop(state)
                state.num_computed = state.num_tokens - 1
            finished += done
        for state in step.graduates:
            self._deliver(state, now, gap_is_logged=False)
            if state.num_tokens < state.final_tokens:
                cohort.join(state, caches=self.kv.caches(state), with_token=self.keep_token_times)
            else:
                self._close(state, cohort)
                finished.append(state)
        for state, was_member in step.late:
            self._deliver(state, now, gap_is_logged=was_member)
            self._close(state, cohort)
            if state.num_tokens == state.final_tokens:
                self.waiting.remove(state)
                finished.append(state)
        cohort.step = None
        if self.ready is None and cohort.size:
            self.ready = cohort
        else:
            self._unite(cohort)
        if finished:
            finished.sort(key=by_order)
            self._finish(finished)
        return finished

    def _deliver(self, state: RequestState, now: int, *, gap_is_logged: bool) -> None:
        """One token for a request outside of cohorts."""
        state.num_tokens += 1
        if state.first_token_ns is None:
            state.first_token_ns = now
        elif not gap_is_logged:
            self.token_gaps.extend((now - state.last_token_ns, 1))
        state.last_token_ns = now

    def _close(self, state: RequestState, cohort: Cohort) -> None:
        """The latest of the cohort's completion times is this request's, though it is no member."""
        if self.keep_token_times:
            stop = len(cohort.times)
            state.segments.append((cohort.times, stop - 1, stop))

    def _log_irregular_gaps(self, cohort: Cohort, now: int) -> int:
        """The gaps of those whose latest token did not come with the cohort's; returns how many they are."""
        for state in cohort.irregular:
            self.token_gaps.extend((now - state.last_token_ns, 1))
        count = len(cohort.irregular)
        cohort.irregular.clear()
        return count

    def _unite(self, cohort: Cohort) -> None:
        """A cohort is back empty, or others are ready still: then the fewer join the many."""
        ready = self.ready
        if cohort.size and ready is not None:
            small, large = (cohort, ready) if cohort.size < ready.size else (ready, cohort)
            for state in list(small.members):
                small.move(state, large)
            self.ready = large
            cohort = small
        self._spare_cohorts.append(cohort)

    def _new_cohort(self) -> Cohort:
        return self._spare_cohorts.pop() if self._spare_cohorts else Cohort(self.kv.block_size)

    def _finish(self, finished: list[RequestState]) -> None:
        for state in finished:
            self.kv.release(state, state.num_computed, state.num_tokens - 1)
            state.held_blocks = 0
            state.latest_step = None
            self.running.pop(state, None)
        self.finished_unreported = True
