"""An instance whose turns are taken in machine code."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock.cost.step_cost import StepShape
from penstock.engine.build import BuiltInstance
from penstock.engine.native import native_policy
from penstock.engine.native_costs import NativeCosts
from penstock.errors import NoProgressError
from penstock.recording.records import (
    REQUEST_COLUMNS,
    TURN_COLUMNS,
    InstanceTotals,
    TokenTimes,
    TurnChunk,
    TurnSink,
)
from penstock.scheduler.policies.caps import DecodeCap, RequestCap
from penstock.scheduler.policies.gllm import TokenThrottling
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.policies.sglang import SMALLEST_SHARE, DynamicChunks, Slots
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.vllm_async import calls_between_tokens
from penstock.spec.options import RunOptions, SchedulerOptions
from penstock.units import Int64Array
from penstock.workload.request import Request

WATCHDOG_TURNS = 20
_ROW_BYTES = 8 * len(REQUEST_COLUMNS)

Segments = tuple[tuple[TokenTimes, int, int], ...]
"""Slices [from, to) of token times, one after the other: those of one request."""

EndedRows = Callable[["NativeReplica", bytes, bytes, bytes], None]
"""Called with an instance and the requests that left it: rows of REQUEST_COLUMNS, slices of their token times (row,
column, from, to), and rows (request, generated tokens, when) of those aborted; all int64."""


class NativeReplica:
    """An :class:`~penstock.engine.instance.Instance` over an engine of ``core``, for what
    :func:`~penstock.engine.native.reason_against` has nothing against."""

    def __init__(
        self,
        core: Any,
        built: BuiltInstance,
        *,
        options: RunOptions,
        sinks: Sequence[TurnSink],
        on_end: EndedRows | None = None,
        connected: Mapping[str, bool] | None = None,
    ) -> None:
        spec = built.spec
        self.index = spec.index
        self.options = spec.scheduler
        self.next_ns: int | None = None
        self.stops_on_end = False
        self.usable_blocks = built.deployment.memory.num_gpu_blocks - 1
        self._built = built
        self._sinks = sinks
        self._on_end = on_end
        # Who is here, where somebody has to hear of their ends.
        self._requests: dict[int, Request] = {}
        self._width = len(TURN_COLUMNS) + 3 * spec.pp_size
        self._costs = NativeCosts(core, built.cost)
        settings = _settings(built, options, connected or {}, keeps_turns=bool(sinks))
        self.engine = core.Engine(self._costs.tables, settings)

    # --- what a router may see --------------------------------------------------------------------------------

    @property
    def num_running(self) -> int:
        """See :class:`~penstock.engine.instance.Instance`."""
        return self.engine.stands()[2]

    @property
    def num_waiting(self) -> int:
        """See :class:`~penstock.engine.instance.Instance`."""
        stands = self.engine.stands()
        return stands[3] + stands[4]

    @property
    def max_num_seqs(self) -> int:
        """See :class:`~penstock.engine.instance.Instance`."""
        return self.options.max_num_seqs

    @property
    def outstanding_tokens(self) -> int:
        """See :class:`~penstock.engine.instance.Instance`."""
        return self.engine.stands()[5]

    @property
    def open_since_ns(self) -> int:
        """See :class:`~penstock.engine.instance.Instance`."""
        return self.engine.open_since_ns()

    @property
    def last_stage_ns(self) -> int:
        """See :class:`~penstock.engine.instance.Instance`."""
        return max(self.engine.stage_free_ns())

    # --- events -----------------------------------------------------------------------------------------------

    def deliver(self, state: RequestState, by: int = -1) -> None:
        """See :class:`~penstock.engine.instance.Instance`."""
        request = state.request
        self.engine.deliver(
            request.index,
            request.arrival_ns,
            state.arrived_ns,
            request.input_tokens,
            request.output_tokens,
            request.priority,
            ids_of(request.input_ids),
            ids_of(request.output_ids),
            by,
        )
        self.remember(state)
        self.next_ns = self.engine.next_ns()

    def deliver_all(self, columns: Sequence[Int64Array], way_in_ns: int) -> None:
        """Requests arrive without ids and priorities: places in the workload, arrivals, and both lengths. Nobody hears
        of their ends."""
        rows, arrival_ns, inputs, outputs = columns
        self.engine.deliver_all(rows, arrival_ns, way_in_ns, inputs, outputs)
        self.next_ns = self.engine.next_ns()

    def deliver_row(self, *request: Any) -> None:
        """A request arrives: its place in the workload, when it was sent, when it is here, both lengths, its priority,
        and the ids of both in 32 bits. Nobody hears of its end."""
        self.engine.deliver(*request)
        self.next_ns = self.engine.next_ns()

    def cancel(self, request_index: int, now: int) -> bool:
        """See :class:`~penstock.engine.instance.Instance`."""
        found = self.engine.abort(request_index, now)
        self.next_ns = self.engine.next_ns()
        return found

    def run_until(self, limit_ns: int) -> None:
        """See :class:`~penstock.engine.instance.Instance`.

        Raises:
            NoProgressError: unfinished requests, nothing in flight, and turn after turn schedules nothing.
        """
        self.act(limit_ns)
        self.hand_over()

    def act(self, limit_ns: int) -> None:
        """As :meth:`run_until`, but for what became of requests."""
        next_ns = self.engine.run_until(self, limit_ns, self.stops_on_end)
        self.next_ns = None if next_ns < 0 else next_ns
        if next_ns == _WITHOUT_PROGRESS:
            self.hand_over()
            raise self.stuck()

    def stage_ns(self, *load: int) -> Sequence[int] | None:
        """What the core asks for while it runs: see :meth:`NativeCosts.stage_ns`."""
        return self._costs.stage_ns(*load)

    def flush(self) -> None:
        """See :class:`~penstock.engine.instance.Instance`; the core asks for it while it runs, too."""
        taken = self.engine.take_turns()
        self.stand()
        if taken is None:
            return
        self.hand_over()
        first_turn, cells = taken
        values = np.frombuffer(cells, dtype=np.int64).reshape(-1, self._width)
        chunk = TurnChunk(self.index, self._built.spec.pp_size, first_turn, values)
        for sink in self._sinks:
            sink.accept(chunk)

    def expect(self, at_ns: int, by: int = -1) -> None:
        """See :class:`~penstock.engine.instance.Instance`: it waits for nobody."""

    def catch_up(self, now: int) -> None:
        """See :class:`~penstock.engine.instance.Instance`: it leaves no turns out."""

    def hand_over(self) -> None:
        """Tell of requests that have left."""
        ended = self.engine.take_ended()
        if ended is not None and self._on_end is not None:
            self._on_end(self, *ended)

    def stand(self) -> None:
        """Others have let the engine act: say when it acts next."""
        self.next_ns = self.engine.next_ns()

    def stuck(self) -> NoProgressError:
        """That it has work which can never run."""
        _, now_ns, running, waiting, arriving, _, _ = self.engine.stands()
        index, tokens = self.engine.first_in_line()
        return NoProgressError(
            f"instance {self.index} makes no progress at {now_ns} ns: {running} requests "
            f"running, {waiting + arriving} waiting, none in flight, {self.engine.totals()[-1]} of "
            f"{self.usable_blocks} KV blocks free; first in line is request {index} with "
            f"{tokens} tokens ({-(-tokens // self.options.block_size)} blocks)"
        )

    def remember(self, state: RequestState) -> None:
        """A request comes, of whose end somebody may have to hear."""
        if self.stops_on_end:
            self._requests[state.request.index] = state.request

    def request(self, index: int) -> Request:
        """One that was sent here while it ``stops_on_end``."""
        return self._requests[index]

    def forget(self, index: int) -> Request:
        """The same, which has ended."""
        return self._requests.pop(index)

    def segments(self, rows: bytes, times: bytes) -> list[Segments]:
        """The token times of each of the ended requests ``rows``."""
        return segments_of([self.engine] * (len(rows) // _ROW_BYTES), times)

    # --- the record -------------------------------------------------------------------------------------------

    def token_gaps(self) -> Int64Array:
        """See :class:`~penstock.engine.instance.Instance`."""
        return np.frombuffer(self.engine.token_gaps(), dtype=np.int64).reshape(-1, 2)

    def forget_gaps(self) -> None:
        """See :class:`~penstock.engine.instance.Instance`."""
        self.engine.forget_gaps()

    def totals(self) -> InstanceTotals:
        """The counters so far."""
        iterations, empty, prompt, generated, sleeps, _, preemptions, cohort, exact, _ = self.engine.totals()
        return InstanceTotals(
            iterations=iterations,
            empty_schedules=empty,
            idle_sleeps=sleeps,
            preemptions=preemptions,
            prompt_tokens=prompt,
            generated_tokens=generated,
            cohort_turns=cohort,
            exact_turns=exact,
            busy_ns=self.engine.busy_ns(),
            end_ns=self.engine.stands()[1],
            notes=self._notes(),
        )

    def _notes(self) -> tuple[str, ...]:
        self._costs.settle(self.engine.take_outside())
        return self._built.cost.stage.notes()


class NativeTimes:
    """Token times that an engine keeps: a column, of which slices are taken as of an array."""

    __slots__ = ("_column", "_engine")

    def __init__(self, engine: Any, column: int) -> None:
        self._engine = engine
        self._column = column

    def __getitem__(self, part: slice) -> array[int]:
        times: array[int] = array("q")
        times.frombytes(self._engine.token_times(self._column, part.start, part.stop))
        return times


def segments_of(engines: Sequence[Any], times: bytes) -> list[Segments]:
    """The token times of ended requests, of which each left one of ``engines``: ``times`` are those of
    :data:`EndedRows`."""
    found: list[list[tuple[TokenTimes, int, int]]] = [[] for _ in engines]
    for row, column, start, stop in np.frombuffer(times, dtype=np.int64).reshape(-1, 4).tolist():
        found[row].append((NativeTimes(engines[row], column), start, stop))
    return [tuple(slices) for slices in found]


_WITHOUT_PROGRESS = -2


def ids_of(ids: array[int] | None) -> array[int] | None:
    """Token ids as a workload has them, in 32 bits."""
    if ids is None or ids.typecode == "i":
        return ids
    return array("i", np.array(ids).astype(np.int32).tobytes())


_CONNECTED = ("writes_blocks", "must_deliver", "calls_back", "watches_prefills", "naps")
"""What the core has to know of a KV connector and its workers, if there are such."""


def _settings(
    built: BuiltInstance, options: RunOptions, connected: Mapping[str, bool], *, keeps_turns: bool
) -> dict[str, Any]:
    spec = built.spec
    own, overhead = spec.scheduler, spec.overhead
    blocks = built.deployment.memory.num_gpu_blocks
    between = calls_between_tokens(own, spec.pp_size)
    way = 0
    if own.async_scheduling:
        in_cohorts = own.max_in_flight <= 2 * between and not options.exact_only and not connected
        way = 1 if in_cohorts else 2
    return {
        "index": spec.index,
        "scheduler": way,
        "max_num_seqs": own.max_num_seqs,
        "max_num_batched_tokens": own.max_num_batched_tokens,
        "max_model_len": own.max_model_len,
        "block_size": own.block_size,
        "long_prefill_token_threshold": own.long_prefill_token_threshold,
        "max_in_flight": own.max_in_flight,
        "num_gpu_blocks": blocks,
        "watermark_blocks": int(own.watermark * blocks),
        "calls_between": between,
        "eligible_after": spec.pp_size if own.v2_model_runner else 0,
        "enable_chunked_prefill": own.enable_chunked_prefill,
        "enable_prefix_caching": own.enable_prefix_caching,
        "reserve_full_isl": own.reserve_full_isl,
        "by_priority": own.scheduling_policy == "priority",
        "keep_token_times": options.keep_token_times,
        "exact_only": options.exact_only,
        "engine_idle_sleep_ns": own.engine_idle_sleep_ns,
        "schedule_ns": overhead.schedule_ns,
        "update_ns": overhead.update_ns,
        "to_first_stage_ns": overhead.ipc_to_first_stage_ns,
        "from_last_stage_ns": overhead.ipc_from_last_stage_ns,
        "watchdog_turns": WATCHDOG_TURNS,
        "blocking_sends": spec.blocking_sends,
        "keeps_turns": keeps_turns,
        "pp_size": spec.pp_size,
        "connected": bool(connected),
        **{name: connected.get(name, False) for name in _CONNECTED},
        **_policy_settings(built, own),
    }


def _policy_settings(built: BuiltInstance, options: SchedulerOptions) -> dict[str, Any]:
    def prefill_ns(tokens: int, context: int) -> int:
        if built.group_cost is not None:  # a forward takes what all ranks make of it
            return tokens
        return max(built.cost.stage.stage_ns(StepShape(tokens, context)))

    policy: Policy | None = native_policy(options.policy, built.spec.pp_size, prefill_ns)
    share = -(-options.max_num_seqs // built.spec.pp_size)
    settings: dict[str, Any] = {
        "policy": 0,
        "cap": 0,
        "iterations": 1,
        "min_prefill": 0,
        "max_prefill": 0,
        "slots": 0,
        "micro_batch": 0,
        "linear_ns": 0.0,
        "quadratic_ns": 0.0,
        "smoothing": 0.0,
        "smallest_share": SMALLEST_SHARE,
        "first_chunk": 0,
    }
    if isinstance(policy, DecodeCap | RequestCap):
        kind = 1 if isinstance(policy, DecodeCap) else 2
        settings |= {"policy": kind, "cap": int(policy.cap or share)}
    elif isinstance(policy, TokenThrottling):
        settings |= {
            "policy": 3,
            "iterations": int(policy.iterations),
            "min_prefill": int(policy.min_prefill),
            "max_prefill": int(policy.max_prefill or options.max_num_batched_tokens),
        }
    elif isinstance(policy, Slots):
        most = policy.micro_batch or max(options.max_num_seqs // built.spec.pp_size, 1)
        settings |= {"policy": 4, "slots": int(policy.slots), "micro_batch": int(most)}
        if isinstance(policy, DynamicChunks):
            policy.fit(int(policy.first_chunk or options.max_num_batched_tokens))
            settings |= {
                "policy": 5,
                "linear_ns": policy.linear_ns,
                "quadratic_ns": policy.quadratic_ns,
                "smoothing": float(policy.smoothing),
                "first_chunk": policy.first,
            }
    return settings
