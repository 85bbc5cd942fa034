"""Continuous batching as vLLM V1 does it (``v1/core/sched/scheduler.py: Scheduler.schedule``).

Running requests first, in the order of their admission, then waiting ones, first come first served or by priority;
prefills in chunks; preemption by recompute. Nothing sorts requests into micro-batches: each call takes everything
that has no token in flight.

The decodes that came back with the last update are one :class:`Cohort` and are taken whole, at a cost that does
not depend on their number, whenever budget and blocks suffice for all of them and no prefill stands before any of
them. Otherwise the same turn is decided request by request (:meth:`VllmScheduler._schedule_each`), with the same
result, and the cohort goes on with those that were taken.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections import deque
from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from itertools import chain
from operator import attrgetter

from penstock.recording.records import Cause
from penstock.scheduler.cohort import Cohort
from penstock.scheduler.kv_cache import CachedBlock, KVCache, OwnBlocks
from penstock.scheduler.kv_connector import (
    NO_MATCH,
    UNTIL_CALLED,
    CallsBack,
    KVConnector,
    Match,
    TransferReport,
)
from penstock.scheduler.parking import ParkingQueue
from penstock.scheduler.policies.limits import Policy, StepLimits
from penstock.scheduler.policies.view import PolicyView
from penstock.scheduler.protocol import SchedulerStatus
from penstock.scheduler.request_state import LoadTimes, Outcome, RequestState
from penstock.scheduler.step import Step
from penstock.scheduler.waiting import FcfsQueue, PriorityQueue
from penstock.spec.options import SchedulerOptions

by_order = attrgetter("order")
_NO_PARTIALS: list[RequestState] = []
_STOP, _SKIP, _PARK = -1, -2, -3
# Plain numbers: the turn log takes them faster than members of an enumeration.
_IDLE, _DEPENDENCY, _MEMORY, _ENGINE = map(int, (Cause.IDLE, Cause.DEPENDENCY, Cause.MEMORY, Cause.ENGINE))
_SEQS = int(Cause.SEQS)
_KV_TRANSFER = int(Cause.KV_TRANSFER)


class VllmScheduler:
    """Which tokens are computed next: an :class:`~penstock.scheduler.protocol.EngineScheduler`.

    ``ready`` are the decodes with nothing in flight, ``partials`` the running requests with prompt left to
    schedule, in order of admission; all other running requests wait for a token in flight. Beside ``waiting``
    stand, where a KV connector loads tokens, the requests ``loading`` and those ``loaded`` and not admitted yet,
    the latter in the order in which they are tried; they have their blocks. After :meth:`schedule`,
    ``out_of_budget`` says that the token budget ended it, ``out_of_capacity`` that blocks or ``max_num_seqs`` kept
    a waiting request out. While ``throttles_prefills``, schedule() leaves prefills to a later step, unless there is
    no decode or the last step with prefills left requests waiting (data-parallel ranks take them in together).
    ``exact_only`` decides every turn request by request.
    """

    decides_on_results = True
    """Whether a decode is scheduled once its latest token is known, not before."""

    def __init__(
        self,
        options: SchedulerOptions,
        num_gpu_blocks: int,
        *,
        policy: Policy | None = None,
        connector: KVConnector | None = None,
        kv: KVCache | None = None,
        keep_token_times: bool = True,
        exact_only: bool = False,
    ) -> None:
        self.options = options
        self.connector = connector
        self.policy = policy
        self.kv = kv or KVCache(
            num_gpu_blocks, options.block_size, prefix_caching=options.enable_prefix_caching
        )
        self.watermark_blocks = int(options.watermark * num_gpu_blocks)
        self.keep_token_times = keep_token_times
        self.exact_only = exact_only
        self.by_priority = options.scheduling_policy == "priority"
        queue = PriorityQueue() if self.by_priority else FcfsQueue()
        self.waiting: FcfsQueue | PriorityQueue | ParkingQueue = queue
        self._calls_back: CallsBack | None = None
        if isinstance(connector, CallsBack):
            self.waiting = ParkingQueue(queue)
            self._calls_back = connector
        self.loading: dict[RequestState, None] = {}
        self.loaded: list[RequestState] = []
        self.running: dict[RequestState, None] = {}
        self.ready: Cohort | None = None
        self.partials: list[RequestState] = []
        self.finished_unreported = False
        self.throttles_prefills = False
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
        self.scheduled = 0
        self.returned = 0
        self._next_order = 0
        self._max_tokens = options.max_num_batched_tokens
        self._max_seqs = options.max_num_seqs
        self._threshold = options.long_prefill_token_threshold
        self._limits: StepLimits | None = None
        # Under a policy with slots: ready cohorts of other slots than the one of ``ready``, and who runs in each.
        self._parked: dict[int, Cohort] = {}
        self.running_in: dict[int, int] = {}
        self._view = PolicyView(self)
        self._status = SchedulerStatus(self.kv.usable)
        self._defers_prefills = False
        self._prefill_capacity_bound = False
        self._put_aside: dict[RequestState, None] = {}
        self._drops_late_tokens = connector is not None and connector.must_deliver
        self._is_fenced = connector is not None and connector.writes_blocks and options.max_in_flight > 1
        # Ended requests whose blocks a connector holds, with the tokens in them.
        self._held: dict[RequestState, tuple[int, int]] = {}
        # Blocks that steps up to a number may still write: (number, request, tokens in them, tokens hashed).
        self._behind_fence: deque[tuple[int, RequestState, int, int]] = deque()
        self._latest_with_tokens = 0
        self._is_blocked = False
        # Whether nothing has changed since the latest schedule(), which found nothing to do.
        self._is_settled = False
        # Loads: how many so far, which are over and not tried yet, and the blocks they lack for all their tokens.
        self._loads = 0
        self._unpromoted: dict[RequestState, bool] = {}
        # Those that end before a load of theirs was promoted: nobody can hit what it brought.
        self._unhashed: set[RequestState] = set()
        self._loads_lack = 0
        # Only where a victim may be in the step being decided: each request of the step as it was before, and the
        # tokens that came back from victims.
        self._before: dict[RequestState, tuple[Step | None, int]] = {}
        self._decodes_taken: dict[RequestState, None] = {}
        self._budget_back = 0

    def add(self, state: RequestState, now: int) -> None:
        """See :class:`~penstock.scheduler.protocol.EngineScheduler`."""
        self.waiting.add(state)
        self._is_settled = False
        if self.connector is not None:
            self.connector.added(state)

    def has_work(self) -> bool:
        """Unfinished requests, or finished ones that the workers have not been told of
        (``Scheduler.has_requests``), or whose blocks are held."""
        if self.running or len(self.waiting) or self.finished_unreported:
            return True
        if self.connector is None:
            return False
        return bool(self.loading or self.loaded or self._held) or self.connector.has_work()

    def status(self) -> SchedulerStatus:
        """See :class:`~penstock.scheduler.protocol.EngineScheduler`."""
        status = self._status
        status.running = len(self.running)
        status.waiting = len(self.waiting)
        status.free_blocks = self.kv.free
        if self.connector is not None:
            status.loading = len(self.loading)
            status.transferring = bool(self.loading or self._held) or self.connector.has_work()
            status.waiting += status.loading + len(self.loaded)
        return status

    def _count_known(self) -> int:
        return len(self.running) + len(self.waiting) + len(self.loading) + len(self.loaded)

    def room_to_keep(self, tokens_each: int) -> int:
        """Blocks for ``tokens_each`` more tokens of every request that runs, loads or is loaded, or for what the one
        with the most still to generate may need, if that is more."""
        active = len(self.running) + len(self.loading) + len(self.loaded)
        longest = max((one.final_tokens - one.tokens_so_far for one in self.running), default=0)
        return self.kv.blocks_for(max(tokens_each * active, longest))

    def states(self) -> Iterator[RequestState]:
        """See :class:`~penstock.scheduler.protocol.EngineScheduler`."""
        return chain(self.running, self.loaded, self.loading, self.waiting.states())

    def first_in_line(self) -> RequestState:
        """See :class:`~penstock.scheduler.protocol.EngineScheduler`."""
        if len(self.waiting):
            return self.waiting.first()
        return next(iter([*self.loaded, *self.loading, *self.running]))

    # --- schedule ---------------------------------------------------------------------------------------------

    def schedule(self, now: int) -> Step:
        """Decide the next step; it may be empty."""
        step = self.new_step()
        self.scheduled += 1
        step.number = self.scheduled
        budget = self._max_tokens
        threshold = self._threshold
        if threshold and self._count_known() == 1:
            threshold = 0
        self.finished_unreported = False
        self.out_of_budget = self.out_of_capacity = False
        if self.by_priority:
            self._before.clear()
        if self._calls_back is not None:
            self._call_back(self._calls_back.called(now))
        if self.policy is not None:
            self._limits = limits = self.policy.limits(self._view)
            if limits.slot is not None or self._parked:
                self._bring_up(limits.slot)
        self._defers_prefills = (
            self.throttles_prefills
            and not self._prefill_capacity_bound
            and len(self.running) > len(self.partials)
        )
        self._is_blocked = self._status.deferred = False
        budget = self._schedule_running(step, budget, threshold)
        if step.preempted:
            self.out_of_capacity = True
        elif (self.waiting or self.loaded) and budget > 0:
            if len(self.running) < self._max_seqs:
                budget = self._admit(step, budget, threshold, now)
            else:
                self.out_of_capacity = True
        if not step.preempted and not self._defers_prefills:
            self._prefill_capacity_bound = len(self.waiting) > len(self._put_aside)
        if budget == 0:
            self.out_of_budget = True
        self._is_settled = not (step.tokens or step.preempted)
        if step.tokens:
            self._latest_with_tokens = step.number
        if step.sampled:
            self._send(step)
        status = self._status
        status.running = running = len(self.running)
        status.waiting = waiting = len(self.waiting)
        status.free_blocks = self.kv.free
        if self.connector is not None:
            status.loading = loading = len(self.loading)
            status.waiting = waiting = waiting + loading + len(self.loaded)
            self.connector.scheduled(step, now)
        if self.out_of_capacity:
            full = running >= self._max_seqs and not step.preempted
            status.cause = _SEQS if full else _MEMORY
        elif self.ready is not None or self.partials or self._parked or (waiting and self.out_of_budget):
            status.cause = _ENGINE
        elif self.loading and not running:
            status.cause = _KV_TRANSFER
        else:
            status.cause = _DEPENDENCY if running or waiting else _IDLE
        return step

    def new_step(self) -> Step:
        """An empty step."""
        spare = self._spare_steps
        if not spare:
            return Step()
        step = spare.pop()
        step.clear()
        return step

    def spare(self, step: Step) -> None:
        """Nobody needs the step any more."""
        self._spare_steps.append(step)

    def has_only_decodes(self) -> bool:
        """Whether schedule() has nothing to decide beside the decodes that are ready, for as long as no request
        comes, ends, or lacks blocks."""
        return not (
            self.partials
            or self.policy is not None
            or self._behind_fence
            or self.exact_only
            or self.throttles_prefills
            or ((self.waiting or self.loaded) and len(self.running) < self._max_seqs)
        )

    def repeats_itself(self) -> bool:
        """Whether the latest schedule() found nothing, and the next finds the same: nothing has changed since."""
        return self._is_settled and not (
            self.running or self.loaded or self._behind_fence or self.policy is not None
        )

    def pass_by(self, turns: int) -> None:
        """So many such calls, and their results, were left out."""
        self.scheduled += turns
        self.returned += turns

    def cause_of_a_decode_turn(self) -> int:
        """Why such a schedule() can take no more than its decodes."""
        return _SEQS if self.waiting or self.loaded else _DEPENDENCY

    def go_on_after(self, scheduled: int, returned: int, ready: Cohort | None) -> None:
        """So many steps with decodes alone were scheduled, and taken, by somebody else; ``ready`` are ready now."""
        self.ready = ready
        self.scheduled += scheduled
        self.returned += returned
        self.cohort_turns += scheduled
        if scheduled:
            self._latest_with_tokens = self.scheduled
            self.finished_unreported = self.out_of_budget = False
            self.out_of_capacity = bool(self.waiting or self.loaded)
            self._prefill_capacity_bound = len(self.waiting) > len(self._put_aside)
            self._status.cause = self.cause_of_a_decode_turn()

    def _send(self, step: Step) -> None:
        """The step is decided: somebody will have a token from it."""
        cohort = step.cohort
        if cohort is None:
            cohort = step.cohort = self._new_cohort()
        cohort.step = step
        if self._limits is not None:
            cohort.slot = self._limits.slot

    def _schedule_running(self, step: Step, budget: int, threshold: int) -> int:
        """The running requests in order; returns the budget left, or -1 if one had to preempt itself."""
        cohort = self.ready
        limits = self._limits
        partials = self.partials if not self._defers_prefills else _NO_PARTIALS
        if cohort is not None:
            need = cohort.block_needs[cohort.turn % cohort.block_size]
            kv = self.kv
            takes = cohort.size if limits is None else limits.allowed_decodes(cohort.size, cohort.slot)
            if (
                takes > budget
                or takes < 0
                or need > kv.free
                or (partials and partials[0].order < cohort.last_order)
                or self.exact_only
                or (self.by_priority and partials and self._may_preempt(need, budget))
            ):
                self.exact_turns += 1
                return self._schedule_each(step, budget, threshold)
            self.ready = None
            if limits is not None:
                limits.spend_decodes(takes)
                if takes < cohort.size:
                    cohort, self.ready = self._part(cohort, takes)
                    need = cohort.block_needs[cohort.turn % cohort.block_size]
            if takes:
                # In lock-step: all of them go, each with one token.
                if need:
                    kv.take(need)
                if cohort.block_fills:
                    for state, tokens in sorted(cohort.filling(), key=order_of_entry):
                        kv.register(state, tokens)
                step.add_members(cohort)
                budget -= takes
        elif not partials:
            return budget
        elif self.exact_only:
            self.exact_turns += 1
            return self._schedule_each(step, budget, threshold)
        self.cohort_turns += 1
        if partials:
            for state in partials[:]:
                if budget <= 0 or self._is_blocked:
                    break
                budget = self._schedule_chunk(step, state, budget, threshold)
        return budget

    def _part(self, cohort: Cohort, count: int) -> tuple[Cohort, Cohort]:
        """The first ``count`` members in order of admission, fewer than all, and the others. The fewer move."""
        rest = cohort.size - count
        other = self._new_cohort()
        other.slot = cohort.slot
        if rest <= count:
            for state in nlargest(rest, cohort.members, key=by_order):
                self._move(state, cohort, other)
            return cohort, other
        for state in nsmallest(count, cohort.members, key=by_order):
            self._move(state, cohort, other)
        return other, cohort

    def _bring_up(self, slot: int | None) -> None:
        """Make those of a slot, or of all, ``ready``, and put a cohort of another slot aside. One with members of any
        slots stays: it is decided request by request."""
        ready = self.ready
        parked = self._parked
        if slot is None:
            for cohort in list(parked.values()):
                self.ready = cohort if self.ready is None else self._joined(self.ready, cohort)
            parked.clear()
            return
        if ready is not None and ready.slot is not None and ready.slot != slot:
            self.ready = None
            self._park(ready)
        of_slot = parked.pop(slot, None)
        if of_slot is not None:
            self.ready = of_slot if self.ready is None else self._joined(self.ready, of_slot)

    def _park(self, cohort: Cohort) -> None:
        slot = cohort.slot
        assert slot is not None
        other = self._parked.get(slot)
        self._parked[slot] = cohort if other is None else self._joined(other, cohort)

    def _may_preempt(self, need: int, budget: int) -> bool:
        """Whether the chunks behind ``need`` blocks of decodes may run out of blocks. By priority, that may take a
        decode back out of the step."""
        kv = self.kv
        return kv.free - need < budget // kv.block_size + len(self.partials)

    def _schedule_each(self, step: Step, budget: int, threshold: int) -> int:
        """The running requests one by one; returns the budget left, or -1 if a request had to preempt itself."""
        kv = self.kv
        limits = self._limits
        cohort = self.ready
        members = cohort.members if cohort is not None else {}
        taken = self._decodes_taken
        partials = self.partials if not self._defers_prefills else _NO_PARTIALS
        for state in sorted([*members, *partials], key=by_order):
            if budget <= 0 or self._is_blocked:
                break
            if state not in self.running:
                continue  # preempted by one before it
            if state.cohort is None:
                budget = self._schedule_chunk(step, state, budget, threshold)
                continue
            if limits is not None and not limits.allows_decode(state):
                continue
            tokens = state.offset + state.cohort.turn
            need = kv.blocks_for(tokens) - kv.blocks_for(tokens - 1)
            if need and not self._make_room(step, state, need):
                budget = budget if self._is_blocked else -1
                break
            kv.take(need)
            self._register_decode(state)
            taken[state] = None
            budget -= 1
            if limits is not None:
                limits.spend_decode()
            if self._budget_back:
                budget += self._budget_back
                self._budget_back = 0
        if cohort is not None:
            self._split(step, cohort, taken)
        taken.clear()
        self._budget_back = 0
        return budget

    def _split(self, step: Step, cohort: Cohort, taken: dict[RequestState, None]) -> None:
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
            other.slot = cohort.slot
            for state in left if len(left) <= len(taken) else taken:
                self._move(state, cohort, other)
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

    def _register_decode(self, state: RequestState) -> None:
        """A member's next token is scheduled: its full blocks can be hit."""
        cohort = state.cohort
        assert cohort is not None
        self.kv.register(state, state.offset + cohort.turn)

    def _move(self, state: RequestState, cohort: Cohort, other: Cohort) -> None:
        cohort.move(state, other)

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
            return budget if self._is_blocked else -1
        self._grant(step, state, new, need)
        if limits is not None:
            limits.spend_chunk(new)
            self._join_slot(state, limits.slot)
        if state.num_computed == state.num_tokens:
            self.partials.remove(state)
        budget += self._budget_back - new
        self._budget_back = 0
        return budget

    def _grant(self, step: Step, state: RequestState, new: int, need: int) -> None:
        """Blocks and a place in the step for ``new`` tokens of a prefill."""
        computed = state.num_computed
        self.kv.take(need)
        state.held_blocks += need
        state.num_computed = computed + new
        if self.by_priority:
            self._before[state] = state.latest_step, state.latest_number
        state.latest_step = step
        state.latest_number = step.number
        self.kv.register(state, computed + new)
        step.add_chunk(state, new, computed)
        if state.num_computed == state.num_tokens:
            step.sampling.append(state)
            step.sampled += 1

    # --- waiting ----------------------------------------------------------------------------------------------

    def _admit(self, step: Step, budget: int, threshold: int, now: int) -> int:
        """Admit waiting requests in their order until one cannot be; returns the budget left."""
        limits = self._limits
        waiting = self.waiting
        if self.loaded:
            budget = self._admit_loaded(step, budget, threshold, now)
            if self.loaded:
                return budget
        skipped: list[RequestState] = []
        while waiting and budget > 0:
            if len(self.running) >= self._max_seqs:
                self.out_of_capacity = True
                break
            if limits is not None and not limits.admissions:
                self.out_of_budget = True
                break
            state = waiting.first()
            new = self._try(step, state, budget, threshold, now)
            if new == _STOP:
                break
            waiting.pop()
            if new == _PARK:
                assert isinstance(waiting, ParkingQueue)
                waiting.park(state)
                self._put_aside[state] = None
                continue
            if new == _SKIP:
                skipped.append(state)
                self._put_aside[state] = None
                continue
            budget -= new
            if self._put_aside:
                self._put_aside.pop(state, None)
            if isinstance(waiting, ParkingQueue):
                waiting.left(state)
        waiting.restore(skipped)
        return budget

    def _call_back(self, called: Sequence[RequestState]) -> None:
        """Those who could not be admitted before may be now."""
        waiting = self.waiting
        assert isinstance(waiting, ParkingQueue)
        for state in called:
            waiting.call(state)

    def _try(self, step: Step, state: RequestState, budget: int, threshold: int, now: int) -> int:
        """Admit a request that holds no blocks; returns its tokens in the step, 0 where it loads KV first. _SKIP: it
        has to wait, others may overtake; _PARK: until it is called. _STOP: nobody behind it is admitted either."""
        kv = self.kv
        if state.latest_number > self.returned and not self._drops_late_tokens:
            return _SKIP  # preempted while a step computes it: that comes back first
        found = kv.find_prefix(state)
        hit_blocks = claim = 0
        if found is not None:
            hit_blocks, claim = kv.count_found(state, found)
        computed = hit_blocks * kv.block_size
        external = NO_MATCH
        if self.connector is not None:
            match = self.connector.matched_tokens(state, computed)
            if match is None:
                self._status.deferred = True
                return _SKIP
            if match is UNTIL_CALLED:
                return _PARK
            external = match
            computed += match.tokens
            if match.loads:
                return self._load(state, found, hit_blocks, claim, match, now)
        if self._defers_prefills and computed < state.num_tokens - 1:
            self.out_of_budget = True
            return _STOP
        new = self._admissible(state, computed, budget, threshold, hit_blocks, claim)
        if not new:
            return _STOP
        if found is None and state.own_blocks is None:
            state.held_blocks = 0
            state.num_computed = computed
        else:
            self._start(state, found, hit_blocks, computed)
        self._run(step, state, new, now)
        if self.connector is not None:
            state.external_tokens += external.tokens
            self.connector.allocated(state, hit_blocks, external.tokens)
        return new

    def _admissible(
        self, state: RequestState, computed: int, budget: int, threshold: int, held: int, claim: int
    ) -> int:
        """How many tokens after ``computed`` the next request in line may start with; 0 if it cannot start.

        ``held`` blocks of its are there already; ``claim`` of them are free ones that it takes out of the pool.
        """
        options = self.options
        kv = self.kv
        limits = self._limits
        new = state.num_tokens - computed
        if threshold and new > threshold:
            new = threshold
        room = budget if limits is None else min(budget, limits.allowed_chunk(state, computed))
        if not room or (new > room and not options.enable_chunked_prefill):
            self.out_of_budget = True
            return 0
        new = min(new, room)
        claim += kv.blocks_for(state.num_tokens if options.reserve_full_isl else computed + new) - held
        if self.watermark_blocks and self.running:
            claim += self.watermark_blocks
        if claim > kv.free:
            self.out_of_capacity = True
            return 0
        return new

    def _start(
        self,
        state: RequestState,
        found: list[CachedBlock] | OwnBlocks | None,
        hit_blocks: int,
        computed: int,
    ) -> None:
        """A waiting request will run after ``computed`` tokens that it need not compute; the blocks found for it are
        its first."""
        if found is not None:
            self.kv.use(state, found)
        if state.own_blocks is not None:
            self.kv.resumed(state)
        state.held_blocks = hit_blocks
        state.num_computed = computed

    def _run(self, step: Step, state: RequestState, new: int, now: int) -> int:
        """A request runs from here on, its first ``new`` tokens go into the step; returns how many."""
        if state.first_scheduled_ns is None:
            state.first_scheduled_ns = now
            state.cached_tokens = state.num_computed
        state.order = self._next_order
        self._next_order += 1
        self.running[state] = None
        limits = self._limits
        if limits is not None:
            limits.spend_chunk(new)
            limits.admissions -= 1
            self._join_slot(state, limits.slot)
        self._grant(step, state, new, self.kv.blocks_for(state.num_computed + new) - state.held_blocks)
        if state.num_computed < state.num_tokens:
            self.partials.append(state)
        return new

    # --- KV from elsewhere ------------------------------------------------------------------------------------

    def _load(
        self,
        state: RequestState,
        found: list[CachedBlock] | OwnBlocks | None,
        hit_blocks: int,
        claim: int,
        match: Match,
        now: int,
    ) -> int:
        """Give the first in line blocks for tokens that a connector loads, and set it aside until they are there;
        _STOP if they do not fit into what prefills and loads on their way leave."""
        kv = self.kv
        external_tokens = match.tokens
        tokens = hit_blocks * kv.block_size + external_tokens
        blocks = kv.blocks_for(tokens) - hit_blocks
        whole = kv.blocks_for(state.num_tokens)
        if self.watermark_blocks and self.running:
            claim += self.watermark_blocks
        if blocks + claim + match.reserved_blocks > kv.free - self._lacking_blocks() or (
            self.options.reserve_full_isl and whole - hit_blocks + claim > kv.free
        ):
            self.out_of_capacity = True
            return _STOP
        if found is not None:
            kv.use(state, found)
        if state.own_blocks is not None:
            kv.resumed(state)
        kv.take(blocks)
        state.held_blocks = hit_blocks + blocks
        state.num_computed = tokens
        state.external_tokens += external_tokens
        if state.load is None:
            state.load = LoadTimes(external_tokens, now)
        state.load_order = self._loads
        self._loads += 1
        self._loads_lack += whole - state.held_blocks
        self.loading[state] = None
        assert self.connector is not None
        self.connector.allocated(state, hit_blocks, external_tokens)
        return 0

    def _lacking_blocks(self) -> int:
        """Blocks that prefills in flight, and loads, do not have yet for all their tokens
        (``_inflight_prefill_reserved_blocks``)."""
        blocks_for = self.kv.blocks_for
        lacking = sum(blocks_for(state.num_tokens) - state.held_blocks for state in self.partials)
        return self._loads_lack + lacking

    def _admit_loaded(self, step: Step, budget: int, threshold: int, now: int) -> int:
        """Those whose KV has come run before any newcomer; returns the budget left."""
        limits = self._limits
        while self.loaded and budget > 0:
            if len(self.running) >= self._max_seqs:
                self.out_of_capacity = True
                break
            if limits is not None and not limits.admissions:
                self.out_of_budget = True
                break
            state = self.loaded[0]
            if state in self._unpromoted:
                self._promote(state, now)
            if state.held_blocks:
                new = self._admissible(state, state.num_computed, budget, threshold, state.held_blocks, 0)
                if not new:
                    break
                self._run(step, state, new, now)
            else:
                new = self._try(step, state, budget, threshold, now)
                if new == _STOP:
                    break
                if new in (_SKIP, _PARK):
                    self.waiting.put_back(state)
                    new = 0
            self.loaded.pop(0)
            budget -= new
        return budget

    def _promote(self, state: RequestState, now: int) -> None:
        """A load is over (``_update_waiting_for_remote_kv``): its full blocks can be hit from now on, and at least
        the last token is computed here, for the one after it. What failed is computed from the start."""
        kv = self.kv
        if state.load is not None and state.load.promoted_ns is None:
            state.load.promoted_ns = now
        self._loads_lack -= kv.blocks_for(state.num_tokens) - state.held_blocks
        if self._unpromoted.pop(state):
            kv.release(state, state.num_computed, 0, resumes=False)
            state.external_tokens = state.held_blocks = state.num_computed = 0
        else:
            kv.register(state, state.num_computed)
            state.num_computed = min(state.num_computed, state.num_tokens - 1)

    def _take_report(self, report: TransferReport, now: int) -> list[RequestState]:
        """What the workers have seen: loads that are over, blocks that need not be held. Returns the requests that
        end because their KV could not be loaded."""
        self._is_settled = False
        for state in report.unloadable:
            del self.loading[state]
            self._unhashed.add(state)
            state.outcome = Outcome.FAILED
            self._loads_lack -= self.kv.blocks_for(state.num_tokens) - state.held_blocks
            self._finish([state], now)
        for state in (*report.loaded, *report.released):
            if state.load is not None and state.load.reported_ns is None:
                state.load.reported_ns = now
        ended = list(report.unloadable)
        for state in report.loaded:
            if self.loading.pop(state, state) is None:
                if state in report.first_tokens and self._take_first_token(state, now):
                    ended.append(state)
                    continue
                self._unpromoted[state] = state in report.discarded
                insort(self.loaded, state, key=_urgency_of_load if self.by_priority else _load_order)
        for state in report.released:
            computed, known = self._held.pop(state)
            state.released_ns = now
            self._free(state, computed, known)
        return ended

    def _take_first_token(self, state: RequestState, now: int) -> bool:
        """The first token of an answer has come with the prompt's KV; returns whether it is the only one."""
        blocks_for = self.kv.blocks_for
        lacks_more = blocks_for(state.num_tokens + 1) - blocks_for(state.num_tokens)
        self._deliver(state, now, gap_is_logged=False)
        if self.keep_token_times:
            self._note_time(state, now)
        if state.num_tokens < state.final_tokens:
            self._loads_lack += lacks_more
            return False
        self._loads_lack -= blocks_for(state.num_tokens - 1) - state.held_blocks
        self._finish([state], now)
        return True

    @staticmethod
    def _note_time(state: RequestState, now: int) -> None:
        """A token of a request outside of cohorts, at a time that no cohort has."""
        state.segments.append((array("q", [now]), 0, 1))

    def _free(self, state: RequestState, computed: int, known: int) -> None:
        """Free the blocks of a request that has ended, once no step in flight may write them
        (``_free_request_blocks``)."""
        if self._is_fenced and state.latest_number > self.returned:
            self._behind_fence.append((self._latest_with_tokens, state, computed, known))
        else:
            self.kv.release(state, computed, known, resumes=False)

    def _lift_fence(self) -> None:
        while self._behind_fence and self._behind_fence[0][0] <= self.returned:
            _, state, computed, known = self._behind_fence.popleft()
            self.kv.release(state, computed, known, resumes=False)

    def _leave_waiting(self, state: RequestState) -> None:
        self.waiting.discard(state)
        if self._put_aside:
            self._put_aside.pop(state, None)

    # --- preemption -------------------------------------------------------------------------------------------

    def _make_room(self, step: Step, state: RequestState, need: int) -> bool:
        """Preempt running requests until ``need`` blocks are free; False if ``state`` itself had to go, or if it
        gets none because a step in flight may still write the victim's blocks (``_is_blocked``)."""
        while need > self.kv.free:
            victim = self._worst_running()
            if self._is_fenced and self._was_in_flight(victim):
                self._is_blocked = True
                return False
            if self.by_priority:
                self._take_out(step, victim)
            self._preempt(victim, step)
            if victim is state:
                if not (self.running or self.loading or self.loaded or self._held):
                    self._status.stuck = state  # it had the whole pool
                return False
        return True

    def _is_in_flight(self, state: RequestState) -> bool:
        """Whether a step that is on its way computes something for the request."""
        cohort = state.cohort
        if cohort is not None:
            return cohort.step is not None
        return state.latest_number > self.returned

    def _was_in_flight(self, state: RequestState) -> bool:
        """As :meth:`_is_in_flight`, before the step that is being decided."""
        before = self._before.get(state)
        return self._is_in_flight(state) if before is None else before[1] > self.returned

    def _worst_running(self) -> RequestState:
        """Who is preempted next: the last one admitted, or the worst by (priority, arrival), the first of equals."""
        if not self.by_priority:
            return next(reversed(self.running))
        return max(self.running, key=_urgency)

    def _take_out(self, step: Step, victim: RequestState) -> None:
        """Where the victim is in the step being decided, it leaves it, and its tokens go back into the budget."""
        tokens = 0
        if victim in self._decodes_taken:
            tokens = 1
            if self._limits is not None:
                self._limits.give_back_decode()
        elif victim in self._before:
            tokens = step.take_out(victim)
            victim.latest_step, victim.latest_number = self._before.pop(victim)
            if victim not in self.partials:
                self.partials.append(victim)
            if self._limits is not None:
                self._limits.give_back_chunk(tokens)
        self._budget_back += tokens

    def _preempt(self, victim: RequestState, step: Step) -> None:
        """Free everything of a running request and queue it again. A token that is in flight will still be
        delivered."""
        del self.running[victim]
        computed = victim.num_computed
        cohort = victim.cohort
        if cohort is not None:
            in_flight = cohort.step
            tokens = victim.offset + cohort.turn
            is_taken = self._decodes_taken.pop(victim, victim) is None
            computed = tokens if in_flight is not None or is_taken else tokens - 1
            cohort.leave(victim)
            if not cohort.size and self._parked:
                self._forget(cohort)
            if in_flight is not None and self._drops_late_tokens:
                cohort.irregular.pop(victim, None)
                in_flight.members -= 1
            elif in_flight is not None:
                victim.latest_number = in_flight.number
                in_flight.preempted_in_flight.append((victim, True))
            else:
                cohort.irregular.pop(victim, None)
        elif victim in self.partials:
            self.partials.remove(victim)
        elif victim.latest_step is not None:
            victim.latest_step.sampling.remove(victim)
            if not self._drops_late_tokens:
                victim.latest_step.preempted_in_flight.append((victim, False))
        self._evict(victim, computed, victim.num_tokens, step)

    def _evict(self, victim: RequestState, computed: int, known: int, step: Step) -> None:
        """Free the blocks that ``computed`` tokens of a request take that does not run any more, and queue it again.
        Those that its first ``known`` tokens fill are hashed."""
        self.kv.release(victim, computed, known, resumes=True)
        victim.held_blocks = 0
        if self._drops_late_tokens:
            victim.dropped_through = self.scheduled
            victim.placeholders = 0
        if victim.slot is not None:
            self._leave_slot(victim)
        victim.num_computed = 0
        victim.preemptions += 1
        self.preemptions += 1
        self.waiting.put_back(victim)
        step.preempted.append(victim)

    def _join_slot(self, state: RequestState, slot: int | None) -> None:
        """A chunk of a prompt goes into a step of ``slot``."""
        if state.slot != slot:
            if state.slot is not None:
                self._leave_slot(state)
            state.slot = slot
            if slot is not None:
                self.running_in[slot] = self.running_in.get(slot, 0) + 1

    def _leave_slot(self, state: RequestState) -> None:
        slot = state.slot
        assert slot is not None
        self.running_in[slot] -= 1
        state.slot = None

    def abort(self, state: RequestState, now: int) -> bool:
        """See :class:`~penstock.scheduler.protocol.EngineScheduler`."""
        self._is_settled = False
        computed = state.num_computed
        if state in self.running:
            del self.running[state]
            computed = self._withdraw(state, computed)
        elif state in self.loading or state in self.loaded:
            if state in self.loading or state in self._unpromoted:
                self._unhashed.add(state)
            if state in self.loading:
                del self.loading[state]
                self._loads_lack -= self.kv.blocks_for(state.num_tokens) - state.held_blocks
            else:
                self.loaded.remove(state)
                if self._unpromoted.pop(state, None) is not None:
                    self._loads_lack -= self.kv.blocks_for(state.num_tokens) - state.held_blocks
                # The token that is to be computed again may be alone in its block.
                computed = max(computed, (state.held_blocks - 1) * self.kv.block_size + 1)
        else:
            queued = len(self.waiting)
            self._leave_waiting(state)
            if len(self.waiting) == queued:
                return False
        state.outcome = Outcome.ABORTED
        state.num_computed = computed
        self._finish([state], now)
        return True

    def _forget(self, cohort: Cohort) -> None:
        """A ready cohort has no members any more."""
        if self.ready is cohort:
            self.ready = None
        elif cohort.slot is not None and self._parked.get(cohort.slot) is cohort:
            del self._parked[cohort.slot]

    def _withdraw(self, state: RequestState, computed: int) -> int:
        """Drop a running request's tokens in flight; returns how many tokens its blocks hold."""
        cohort = state.cohort
        if cohort is not None:
            tokens = state.offset + cohort.turn
            cohort.leave(state)
            cohort.irregular.pop(state, None)
            if cohort.step is None:
                if not cohort.size:
                    self._forget(cohort)
                return tokens - 1
            cohort.step.members -= 1
            return tokens
        if state in self.partials:
            self.partials.remove(state)
        elif state.latest_step is not None:
            state.latest_step.sampling.remove(state)
        return computed

    # --- update -----------------------------------------------------------------------------------------------

    def update(self, step: Step, now: int) -> list[RequestState]:
        """Take the tokens of a step that has come back; returns the requests that this finishes, in the
        order of the step."""
        self.returned += 1
        connector = self.connector
        if connector is None:
            return self._take_tokens(step, now)
        self._lift_fence()
        report = connector.reported(now)
        ended = self._take_tokens(step, now)
        return ended if report is None else [*ended, *self._take_report(report, now)]

    def _take_tokens(self, step: Step, now: int) -> list[RequestState]:
        self._spare_steps.append(step)
        cohort = step.cohort
        if cohort is None:
            return []
        turn = cohort.turn + 1
        cohort.turn = turn
        members = step.members
        if step.preempted_in_flight:
            members -= self._count_aborted(step, cohort)
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
        for state in step.sampling:
            self._deliver(state, now, gap_is_logged=False)
            if state.num_tokens < state.final_tokens:
                cohort.join(state, caches=self.kv.notes_fills(state), with_token=self.keep_token_times)
                if state.slot != cohort.slot:
                    cohort.slot = None
            else:
                self._note_last_time(state, cohort)
                finished.append(state)
        for state, was_member in step.preempted_in_flight:
            if state.outcome is Outcome.ABORTED:
                continue
            self._deliver(state, now, gap_is_logged=was_member)
            self._note_last_time(state, cohort)
            if state.num_tokens == state.final_tokens:
                self._leave_waiting(state)
                finished.append(state)
        cohort.step = None
        if self.ready is None and cohort.size:
            self.ready = cohort
        else:
            self._merge(cohort)
        if finished:
            finished.sort(key=by_order)
            self._finish(finished, now)
        return finished

    @staticmethod
    def _count_aborted(step: Step, cohort: Cohort) -> int:
        """Members that were preempted, and aborted before their token came: it has no gap."""
        return sum(
            was_member and state.outcome is Outcome.ABORTED and state not in cohort.irregular
            for state, was_member in step.preempted_in_flight
        )

    def _deliver(self, state: RequestState, now: int, *, gap_is_logged: bool) -> None:
        """One token for a request outside of cohorts."""
        state.num_tokens += 1
        if state.first_token_ns is None:
            state.first_token_ns = now
        elif not gap_is_logged:
            self.token_gaps.extend((now - state.last_token_ns, 1))
        state.last_token_ns = now

    def _note_last_time(self, state: RequestState, cohort: Cohort) -> None:
        """The latest of the cohort's completion times is this request's, though it is no member."""
        if self.keep_token_times:
            stop = len(cohort.times)
            state.segments.append((cohort.times, stop - 1, stop))

    def _log_irregular_gaps(self, cohort: Cohort, now: int) -> int:
        """The gaps of those whose latest token did not come with the cohort's; returns how many they are."""
        for state in cohort.irregular:
            if state.outcome is not Outcome.ABORTED:
                self.token_gaps.extend((now - state.last_token_ns, 1))
        count = len(cohort.irregular)
        cohort.irregular.clear()
        return count

    def _merge(self, cohort: Cohort) -> None:
        """A cohort is back empty, or others are ready still."""
        ready = self.ready
        if not cohort.size or ready is None:
            self._spare_cohorts.append(cohort)
        elif ready.slot != cohort.slot and ready.slot is not None and cohort.slot is not None:
            self._park(cohort)
        else:
            self.ready = self._joined(ready, cohort)

    def _joined(self, one: Cohort, other: Cohort) -> Cohort:
        """One cohort of two that are ready: the fewer join the many."""
        small, large = (other, one) if other.size < one.size else (one, other)
        for state in list(small.members):
            self._move(state, small, large)
        if small.slot != large.slot:
            large.slot = None
        self._retire(small)
        return large

    def _retire(self, cohort: Cohort) -> None:
        """A cohort without members, and without a step in flight, is used again."""
        self._spare_cohorts.append(cohort)

    def _new_cohort(self) -> Cohort:
        return self._spare_cohorts.pop() if self._spare_cohorts else Cohort(self.kv.block_size)

    def _finish(self, ended: list[RequestState], now: int) -> None:
        self._is_settled = False
        for state in ended:
            self.running.pop(state, None)
            computed, known = state.num_computed, state.num_tokens - 1
            if state in self._unhashed:
                self._unhashed.discard(state)
                known = 0
            if self.connector is None:
                self.kv.release(state, computed, known, resumes=False)
            elif self.connector.finished(state, now):
                self._held[state] = computed, known
            else:
                state.released_ns = now
                self._free(state, computed, known)
            if state.own_blocks is not None:
                self.kv.resumed(state)
            state.held_blocks = 0
            state.latest_step = None
            if state.slot is not None:
                self._leave_slot(state)
        self.finished_unreported = True


def order_of_entry(entry: tuple[RequestState, int]) -> int:
    return entry[0].order


def _load_order(state: RequestState) -> int:
    return state.load_order


def _urgency_of_load(state: RequestState) -> tuple[int, int, int]:
    return *_urgency(state), state.request.index


def _urgency(state: RequestState) -> tuple[int, int]:
    return state.request.priority, state.arrived_ns
