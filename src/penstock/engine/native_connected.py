"""An instance with a KV connector whose turns are taken in machine code.

The connector and its workers stay what they are, in Python. The core calls them where something happens to a request,
and tells them of steps only when they may have something to do in them; of all others they hear afterwards that they
went by, as of the turns of :mod:`~penstock.engine.decode_runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from penstock.engine.build import BuiltInstance
from penstock.engine.kernel import Agenda
from penstock.engine.native_replica import NativeReplica, NativeTimes
from penstock.engine.replica import Replica
from penstock.engine.sides import vllm_scheduler
from penstock.engine.totals import with_workers
from penstock.kv_transfer.push import PushReceiver, PushSender
from penstock.kv_transfer.step_workers import StepWorkers
from penstock.recording.records import InstanceTotals, TurnSink
from penstock.scheduler.kv_connector import UNTIL_CALLED, CallsBack, TransferReport
from penstock.scheduler.request_state import Outcome, RequestState, Segment
from penstock.scheduler.step import Step
from penstock.spec.options import RunOptions
from penstock.workload.request import Request

StateEnded = Callable[["ConnectedReplica", RequestState, int], None]
"""Called with an instance, a request that left it, and when."""

_OUTCOMES = (Outcome.FINISHED, Outcome.ABORTED, Outcome.FAILED)


class ConnectedReplica(NativeReplica):
    """Takes the place of ``replica``, which has not acted, with its connector and its workers."""

    def __init__(
        self,
        core: Any,
        built: BuiltInstance,
        replica: Replica,
        *,
        options: RunOptions,
        sinks: Sequence[TurnSink],
        on_end: StateEnded,
        agenda: Agenda,
    ) -> None:
        workers, scheduler = replica.workers, vllm_scheduler(replica)
        assert workers is not None
        assert scheduler is not None
        connector = scheduler.connector
        assert connector is not None
        self._connector = connector
        self._workers: StepWorkers = workers
        self._calls_back = connector if isinstance(connector, CallsBack) else None
        super().__init__(
            core,
            built,
            options=options,
            sinks=sinks,
            connected={
                "writes_blocks": connector.writes_blocks,
                "must_deliver": connector.must_deliver,
                "calls_back": self._calls_back is not None,
                "watches_prefills": isinstance(connector, PushSender),
                "naps": built.spec.scheduler.engine_idle_sleep_ns > 0 and not options.exact_only,
            },
        )
        self.agenda = agenda
        self._on_state_end = on_end
        self._keeps_times = options.keep_token_times
        self._stages = range(built.spec.pp_size)
        self._states: dict[int, RequestState] = {}
        self._step = Step()
        self._sender = connector if isinstance(connector, PushSender) else None
        if isinstance(connector, PushReceiver):
            connector.scheduler = self

    # --- events -----------------------------------------------------------------------------------------------

    def remember(self, state: RequestState) -> None:
        """See :class:`~penstock.engine.native_replica.NativeReplica`."""
        self._states[state.request.index] = state

    def expect(self, at_ns: int, by: int = -1) -> None:
        """See :meth:`~penstock.engine.replica.Replica.expect`."""
        if self.engine.expect(at_ns, by):
            self.stand()
            if self.next_ns is not None:
                self.agenda.wake(self, self.next_ns)

    def run_until(self, limit_ns: int) -> None:
        """See :class:`~penstock.engine.instance.Instance`. Who has left was told at once.

        Raises:
            NoProgressError: as the one of all instances in machine code.
        """
        self.act(limit_ns)

    def catch_up(self, now: int) -> None:
        """See :meth:`~penstock.engine.replica.Replica.catch_up`."""
        self.engine.catch_up(self, now)

    def request(self, index: int) -> Request:
        """See :class:`~penstock.engine.native_replica.NativeReplica`."""
        return self._states[index].request

    # --- what a connector may see -----------------------------------------------------------------------------

    def room_to_keep(self, tokens_each: int) -> int:
        """See :class:`~penstock.kv_transfer.push.KeepsRoom`."""
        return self.engine.room_to_keep(tokens_each)

    # --- what the core calls while it runs --------------------------------------------------------------------

    def stands_for_kv(self) -> tuple[int, int, bool]:
        """Until when there is nothing to tell the workers, until when these have not seen anything either, and whether
        the engine has to go on for the connector."""
        tells_ns = self._connector.quiet_until_ns()
        looks_ns = self._workers.quiet_until_ns() if tells_ns else 0
        if looks_ns < tells_ns:
            return tells_ns if looks_ns else 0, looks_ns, self._connector.has_work()
        return tells_ns, tells_ns, self._connector.has_work()

    def added(self, index: int) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        self._connector.added(self._states[index])

    def called(self, now: int) -> list[int]:
        """See :class:`~penstock.scheduler.kv_connector.CallsBack`."""
        assert self._calls_back is not None
        return _indices(self._calls_back.called(now))

    def matched_tokens(self, index: int, computed: int) -> tuple[int, bool, int] | None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`; None until it is called."""
        match = self._connector.matched_tokens(self._states[index], computed)
        if match is UNTIL_CALLED:
            return None
        assert match is not None
        return match.tokens, match.loads, match.reserved_blocks

    def allocated(self, index: int, held_blocks: int, hit_blocks: int, external_tokens: int) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        state = self._states[index]
        state.held_blocks = held_blocks
        self._connector.allocated(state, hit_blocks, external_tokens)

    def finished(self, index: int, outcome: int, now: int) -> bool:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        state = self._states[index]
        state.outcome = _OUTCOMES[outcome]
        return self._connector.finished(state, now)

    def sent(
        self,
        number: int,
        now: int,
        has_tokens: int,
        times: tuple[int, ...],
        chunks: list[tuple[int, int, int]] | None,
    ) -> None:
        """A step was decided and sent off at ``now``: ``arrive, start, end`` of every stage, or when it passes there.
        ``chunks``: (request, new tokens, computed before) of the prompts in it, where somebody looks at them."""
        step = self._step
        step.number = number
        step.chunks = [(self._states[index], new, computed) for index, new, computed in chunks or ()]
        if self._sender is not None:
            self._sender.scheduled_steps = number - 1
        self._connector.scheduled(step, now)
        if not has_tokens:
            self._workers.passed(step, now, list(times[::3]))
            return
        for stage in self._stages:
            self._workers.started(step, stage, times[3 * stage + 1], times[3 * stage + 2])

    def came_back(self, at_ns: int, times: tuple[int, ...]) -> tuple[list[int], ...] | None:
        """The oldest step is back, which the workers may not have been told of, with its ``times``. Returns a
        :class:`~penstock.scheduler.kv_connector.TransferReport`, member by member."""
        self._workers.went_by(0, (times,))
        if self._sender is not None:
            self._sender.reported_steps = self.engine.returned() - 1
        self._workers.collect(at_ns)
        report = self._connector.reported(at_ns)
        return None if report is None else _lists(report)

    def hand_over(self) -> None:
        """Requests have left."""
        for (
            index,
            generated,
            at_ns,
            outcome,
            scheduled_ns,
            token_ns,
            preemptions,
            cached,
            *slices,
        ) in self.engine.take_left():
            state = self._states.pop(index)
            state.outcome = _OUTCOMES[outcome]
            state.num_tokens = state.request.input_tokens + generated
            state.first_scheduled_ns = None if scheduled_ns < 0 else scheduled_ns
            state.first_token_ns = None if token_ns < 0 else token_ns
            state.preemptions = preemptions
            state.cached_tokens = cached
            if slices and self._keeps_times:
                state.segments = self._segments(slices)
            self._on_state_end(self, state, at_ns)

    def _segments(self, slices: list[int]) -> list[Segment]:
        columns = (NativeTimes(self.engine, column) for column in slices[::3])
        return [*zip(columns, slices[1::3], slices[2::3], strict=True)]

    def totals(self) -> InstanceTotals:
        """See :class:`~penstock.engine.native_replica.NativeReplica`."""
        return with_workers(super().totals(), self._workers)


def _indices(states: Sequence[RequestState]) -> list[int]:
    return [state.request.index for state in states]


def _lists(report: TransferReport) -> tuple[list[int], ...]:
    """In the order of the core's."""
    first_tokens = [state.request.index for state in report.loaded if state in report.first_tokens]
    discarded = [state.request.index for state in report.loaded if state in report.discarded]
    return (
        _indices(report.loaded),
        discarded,
        first_tokens,
        _indices(report.unloadable),
        _indices(report.released),
    )
