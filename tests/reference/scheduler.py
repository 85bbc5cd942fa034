"""vLLM's ``Scheduler`` and ``AsyncScheduler`` (``core/sched/``), one request at a time."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.scheduler.policies import make_policy
from penstock.scheduler.policies.make import PrefillTime
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request

from .allowance import Allowance, View
from .kv_cache import Block, ContentHasher, KVCache


@dataclass(frozen=True, slots=True)
class Departures:
    """Switches away from what the real scheduler and engine do, to see what each of its habits is worth.

    Each is on in the real engine. Off: an empty step is not queued; an arrival wakes an engine that is blocked
    on a step while the queue has room; a victim's token in flight is thrown away and the victim may resume
    at once; all freed blocks go to the end of the queue; a block can be hit once its step is done.
    """

    empty_steps_take_slots: bool = True
    blocks_on_oldest_step: bool = True
    deliver_late_tokens: bool = True
    unhashed_blocks_first: bool = True
    hit_when_scheduled: bool = True


@dataclass(slots=True, eq=False)
class RequestState:
    """A request inside the scheduler. ``tokens`` are the ids known so far, prompt and outputs. ``decoding`` since
    the step that computes the last of them was scheduled, until it is preempted. ``slot`` is the policy's.

    ``is_prefill_chunk``: what it was last scheduled for sampled nothing. ``put_aside``: a scan of the waiting
    requests has passed it over since it was last admitted (vLLM's ``deferred_waiting``).
    """

    request: Request
    max_tokens: int
    tokens: list[object]
    outputs: list[object]
    contents: list[int] = field(default_factory=list)
    computed: int = 0
    output_placeholders: int = 0
    in_flight_tokens: int = 0
    stale_tokens: int = 0
    next_decode_step: int = 0
    generated: int = 0
    status: str = "waiting"
    decoding: bool = False
    slot: int | None = None
    is_prefill_chunk: bool = False
    put_aside: bool = False
    preempted: bool = False

    @property
    def num_tokens(self) -> int:
        """Prompt and outputs known so far."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """``new`` tokens of a request behind ``computed`` ones; ``samples``: its last known token is among them."""

    state: RequestState
    new: int
    computed: int
    samples: bool


@dataclass(frozen=True, slots=True)
class Preemption:
    """A victim as it was when it lost its blocks."""

    state: RequestState
    num_tokens: int
    computed: int


@dataclass(frozen=True, slots=True)
class Admission:
    """A waiting request that started to run with ``cached`` tokens taken from the prefix cache."""

    state: RequestState
    cached: int
    num_tokens: int
    resumed: bool


@dataclass(slots=True)
class Schedule:
    """What one call of schedule() decided."""

    chunks: list[ScheduledChunk] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    admissions: list[Admission] = field(default_factory=list)
    metadata: Any = None

    @property
    def tokens(self) -> int:
        """New tokens in the step."""
        return sum(chunk.new for chunk in self.chunks)

    @property
    def sampled(self) -> int:
        """Requests whose next token comes out of the step."""
        return sum(chunk.samples for chunk in self.chunks)


def urgency(state: RequestState) -> tuple[int, int, int]:
    """The order of vLLM's ``Request.__lt__``: priority, arrival, request id. The least is served first."""
    request = state.request
    return request.priority, request.arrival_ns, request.index


class ReferenceScheduler:
    """``running`` in order of admission. ``waiting`` in the order of ``scheduling_policy``: under ``fcfs`` of
    arrival with preempted requests in front, under ``priority`` by :func:`urgency` whatever happened before."""

    def __init__(
        self,
        options: SchedulerOptions,
        num_gpu_blocks: int,
        pp_size: int,
        departures: Departures | None = None,
        *,
        prefill_ns: PrefillTime | None = None,
    ) -> None:
        self.options = options
        self.departures = departures or Departures()
        self.kv = KVCache(
            num_gpu_blocks,
            options.block_size,
            caching=options.enable_prefix_caching,
            unhashed_blocks_first=self.departures.unhashed_blocks_first,
        )
        self.usable_blocks = num_gpu_blocks - 1
        self.policy = make_policy(options.policy, pp_size, prefill_ns or (lambda tokens, context: tokens))
        self.allowance: Allowance | None = None
        self.watermark_blocks = int(options.watermark * num_gpu_blocks)
        self.pp_size = pp_size
        self.hasher = ContentHasher()
        self.hashes_blocks = options.enable_prefix_caching
        self.current_step = 0
        self.by_priority = options.scheduling_policy == "priority"
        self.running: list[RequestState] = []
        self.waiting: list[RequestState] = []
        self.finished_since_schedule = False
        self.prefill_capacity_bound = False

    def add(self, request: Request) -> RequestState:
        """A request arrives. Token ids that were not given are unlike all others."""
        length, index = request.input_tokens, request.index
        prompt: list[object] = list(request.input_ids or ())
        outputs: list[object] = list(request.output_ids or ())
        prompt += [("prompt", index, position) for position in range(len(prompt), length)]
        outputs += [("output", index, position) for position in range(len(outputs), request.output_tokens)]
        state = RequestState(request, request.output_tokens, prompt, outputs)
        self._extend_contents(state)
        self._queue(state, in_front=False)
        return state

    def _queue(self, state: RequestState, *, in_front: bool) -> None:
        if self.by_priority:
            insort(self.waiting, state, key=urgency)
        else:
            self.waiting.insert(0 if in_front else len(self.waiting), state)

    @property
    def num_waiting(self) -> int:
        """Requests that were added and do not run."""
        return len(self.waiting)

    def has_unfinished(self) -> bool:
        """Whether any request runs or waits."""
        return bool(self.running or self.num_waiting)

    def has_requests(self) -> bool:
        """vLLM's ``has_requests``: also true until the schedule() after a finish."""
        return self.has_unfinished() or self.finished_since_schedule

    def schedule(self, *, throttle_prefills: bool = False) -> Schedule:
        """Decide the next step: running requests first, then waiting ones.

        ``throttle_prefills``: prefills are left to a later step (data-parallel ranks take them in together),
        unless there is no decode to run, or the last step that took them in left requests waiting.
        """
        self.current_step += 1
        result = Schedule()
        if self.policy is not None:
            self.allowance = Allowance(self.policy.limits(View(self)))
        defer = throttle_prefills and not self.prefill_capacity_bound
        defer = defer and any(not state.is_prefill_chunk for state in self.running)
        alone = len(self.running) + self.num_waiting <= 1
        threshold = 0 if alone else self.options.long_prefill_token_threshold
        budget = self._schedule_running(result, self.options.max_num_batched_tokens, threshold, defer=defer)
        if not result.preemptions:
            self._schedule_waiting(result, budget, threshold, defer=defer)
            if not defer:
                self.prefill_capacity_bound = any(not state.put_aside for state in self.waiting)
        self._advance(result)
        self.finished_since_schedule = False
        return result

    def update(self, schedule: Schedule) -> list[tuple[RequestState, bool]]:
        """A step's sampled tokens have come back: ``(request, finished)`` for each token, in schedule order."""
        delivered: list[tuple[RequestState, bool]] = []
        for chunk in schedule.chunks:
            state = chunk.state
            state.in_flight_tokens -= chunk.new
            stale = state.stale_tokens > 0
            if stale:
                state.stale_tokens -= chunk.new
            if state.status in ("finished", "ended"):
                continue
            if not self.departures.hit_when_scheduled and not stale and state.status == "running":
                self.kv.hash_full_blocks(
                    state.request.index, state.contents, min(chunk.computed + chunk.new, state.num_tokens)
                )
            if not chunk.samples or (stale and not self.departures.deliver_late_tokens):
                continue
            finished = self._append_token(state, stale=stale)
            delivered.append((state, finished))
        return delivered

    def _schedule_running(self, result: Schedule, budget: int, threshold: int, *, defer: bool) -> int:
        position = 0
        while position < len(self.running) and budget > 0:
            state = self.running[position]
            new = self._permitted(state, self._new_tokens_of_running(state, budget, threshold))
            if defer and state.is_prefill_chunk:
                new = 0
            if new == 0:
                position += 1
                continue
            while self._lacks_blocks(state, state.computed + new):
                victim = self._victim()
                if not self._may_lose_blocks(victim):
                    return budget
                position -= self.running.index(victim) < position
                budget += self._preempt(victim, result)
                if victim is state:
                    return budget
            self._allocate(state, state.computed + new, ())
            self._enter(result, self._chunk(state, new))
            budget -= new
            position += 1
        return budget

    def _permitted(self, state: RequestState, new: int, computed: int | None = None) -> int:
        if self.allowance is None:
            return new
        return min(new, self.allowance.tokens_for(state, state.computed if computed is None else computed))

    def _enter(self, result: Schedule, chunk: ScheduledChunk) -> None:
        result.chunks.append(chunk)
        if self.allowance is not None:
            self.allowance.spend(chunk)
            if not chunk.state.decoding:
                chunk.state.slot = self.allowance.slot

    def _lacks_blocks(self, state: RequestState, tokens: int) -> bool:
        return self.kv.blocks_needed(state.request.index, tokens, ()) > len(self.kv.free)

    def _victim(self) -> RequestState:
        """The running request that loses its blocks: the last admitted, or the least urgent of the earliest
        place in ``running``."""
        if not self.by_priority:
            return self.running[-1]
        return max(self.running, key=lambda state: (state.request.priority, state.request.arrival_ns))

    def _may_lose_blocks(self, victim: RequestState) -> bool:
        """Whether the victim's blocks would be free at once. If not, the running requests behind go without."""
        del victim
        return True

    def _new_tokens_of_running(self, state: RequestState, budget: int, threshold: int) -> int:
        placeholders = state.output_placeholders
        last_token_is_in_flight = (
            placeholders > 0
            and state.computed + 2 - placeholders >= state.request.input_tokens + state.max_tokens
        )
        if last_token_is_in_flight or self.current_step < state.next_decode_step:
            return 0
        new = state.num_tokens + placeholders - state.computed
        if 0 < threshold < new:
            new = threshold
        return min(new, budget, self.options.max_model_len - 1 - state.computed)

    def _preempt(self, victim: RequestState, result: Schedule) -> int:
        """Take the victim's blocks, and its chunk out of the step where it has one: the tokens given back."""
        taken_back = [chunk for chunk in result.chunks if chunk.state is victim]
        result.chunks = [chunk for chunk in result.chunks if chunk.state is not victim]
        if self.allowance is not None:
            for chunk in taken_back:
                self.allowance.spend(chunk, sign=-1)
        result.preemptions.append(Preemption(victim, victim.num_tokens, victim.computed))
        self.running.remove(victim)
        self._free_blocks(victim)
        victim.status = "preempted"
        victim.decoding = False
        victim.slot = None
        victim.computed = 0
        victim.output_placeholders = 0
        # Everything in flight, chunks that sample nothing included, must drain before it may run again.
        victim.stale_tokens = victim.in_flight_tokens
        self._queue(victim, in_front=True)
        return sum(chunk.new for chunk in taken_back)

    def _schedule_waiting(self, result: Schedule, budget: int, threshold: int, *, defer: bool) -> None:
        for state in list(self.waiting):
            if budget <= 0 or len(self.running) >= self.options.max_num_seqs:
                return
            if self.allowance is not None and self.allowance.admissions <= 0:
                return
            if state.stale_tokens > 0 and self.departures.deliver_late_tokens:
                state.put_aside = True
                continue
            new = self._try_to_admit(state, budget, threshold, result, defer=defer)
            if new is None:
                return
            budget -= new

    def _try_to_admit(
        self, state: RequestState, budget: int, threshold: int, result: Schedule, *, defer: bool
    ) -> int | None:
        """Admit a waiting request; None if it cannot be, which ends the scan."""
        hits = self.kv.find_hits(state.contents, state.num_tokens - 1)
        cached = len(hits) * self.options.block_size
        new = state.num_tokens - cached
        if defer and new > 1:
            return None
        if 0 < threshold < new:
            new = threshold
        room = self._permitted(state, budget, cached)
        if room == 0 or (new > room and not self.options.enable_chunked_prefill):
            return None
        new = min(new, room)
        if not self._admissible(state, hits, cached + new):
            return None
        self.waiting.remove(state)
        self.running.append(state)
        self._allocate(state, cached + new, hits)
        result.admissions.append(Admission(state, cached, state.num_tokens, state.status == "preempted"))
        state.status = "running"
        state.put_aside = False
        state.computed = cached
        self._enter(result, self._chunk(state, new))
        if self.allowance is not None:
            self.allowance.admissions -= 1
        return new

    def _admissible(self, state: RequestState, hits: Sequence[Block], tokens: int) -> bool:
        kept_back = self.watermark_blocks if self.running else 0
        index, free = state.request.index, len(self.kv.free)
        if self.options.reserve_full_isl:
            whole = min(state.num_tokens, self.options.max_model_len)
            if self.kv.blocks_needed(index, whole, hits) + kept_back > free:
                return False
        return self.kv.blocks_needed(index, tokens, hits) + kept_back <= free

    def _allocate(self, state: RequestState, tokens: int, hits: Sequence[Block]) -> None:
        self.kv.allocate(state.request.index, tokens, hits)
        if self.departures.hit_when_scheduled:
            # Output tokens that are not known yet have no hash.
            self.kv.hash_full_blocks(state.request.index, state.contents, min(tokens, state.num_tokens))

    def _chunk(self, state: RequestState, new: int) -> ScheduledChunk:
        samples = state.computed + new >= state.num_tokens + state.output_placeholders
        return ScheduledChunk(state, new, state.computed, samples)

    def _advance(self, result: Schedule) -> None:
        """vLLM's ``_update_after_schedule``: computed tokens move when the step is submitted."""
        for chunk in result.chunks:
            state = chunk.state
            state.computed += chunk.new
            state.in_flight_tokens += chunk.new
            state.decoding = state.decoding or chunk.samples
            state.is_prefill_chunk = not chunk.samples
            if chunk.samples and self.options.async_scheduling:
                state.output_placeholders += 1
                if self.options.v2_model_runner:
                    state.next_decode_step = self.current_step + self.pp_size

    def _append_token(self, state: RequestState, *, stale: bool) -> bool:
        state.tokens.append(state.outputs[state.generated])
        state.generated += 1
        self._extend_contents(state)
        if self.options.async_scheduling:
            if not stale:
                state.output_placeholders -= 1
            if state.status == "running" and self.departures.hit_when_scheduled:
                self.kv.hash_full_blocks(
                    state.request.index, state.contents, state.computed - state.output_placeholders
                )
        finished = state.generated >= state.max_tokens or state.num_tokens >= self.options.max_model_len
        if finished:
            (self.running if state.status == "running" else self.waiting).remove(state)
            self._finish(state)
        return finished

    def _finish(self, state: RequestState) -> None:
        state.status = "finished"
        self._free_blocks(state)
        self.finished_since_schedule = True

    def _free_blocks(self, state: RequestState) -> None:
        self.kv.release(state.request.index)

    def _extend_contents(self, state: RequestState) -> None:
        if not self.hashes_blocks:
            return
        size = self.options.block_size
        for start in range(len(state.contents) * size, state.num_tokens - size + 1, size):
            parent = state.contents[-1] if state.contents else None
            state.contents.append(self.hasher.chain(parent, tuple(state.tokens[start : start + size])))
