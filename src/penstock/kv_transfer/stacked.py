"""Several connectors of one instance, as vLLM's ``kv_connector/v1/multi_connector.py: MultiConnector`` joins them.

A request's KV is loaded by the first of them that has some, and handed over to all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from penstock.kv_transfer.step_workers import StepWorkers
from penstock.scheduler.kv_connector import (
    NO_MATCH,
    UNTIL_CALLED,
    CallsBack,
    KVConnector,
    Match,
    TransferReport,
)
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step

Workers = TypeVar("Workers", bound=StepWorkers)


class StackedConnector:
    """A :class:`~penstock.scheduler.kv_connector.KVConnector` of ``members``, the first of which come first."""

    def __init__(self, members: Sequence[KVConnector]) -> None:
        self.members = tuple(members)
        self.writes_blocks = any(member.writes_blocks for member in members)
        self.must_deliver = any(member.must_deliver for member in members)
        # Who loads for a request, or did so last; of ended requests, how many more have to let go of the blocks.
        self._loader: dict[RequestState, KVConnector] = {}
        self._holders: dict[RequestState, int] = {}

    def added(self, state: RequestState) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        for member in self.members:
            member.added(state)

    def matched_tokens(self, state: RequestState, computed: int) -> Match | None:
        """What the first has that has some; all are asked, and whoever does not know yet is waited for."""
        chosen = NO_MATCH
        for member in self.members:
            match = member.matched_tokens(state, computed)
            if match is None or match is UNTIL_CALLED:
                return match
            if match.tokens and not chosen.tokens:
                self._loader[state] = member
                chosen = match
        return chosen

    def allocated(self, state: RequestState, hit_blocks: int, external_tokens: int) -> None:
        """To all but the one that loads nothing comes from elsewhere."""
        loader = self._loader.get(state)
        for member in self.members:
            member.allocated(state, hit_blocks, external_tokens if member is loader else 0)

    def scheduled(self, step: Step, now: int) -> None:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        for member in self.members:
            member.scheduled(step, now)

    def reported(self, now: int) -> TransferReport | None:
        """What any of them has seen. Blocks are free when the last of those who hold them lets go."""
        whole: TransferReport | None = None
        for member in self.members:
            report = member.reported(now)
            if report is None:
                continue
            released = [state for state in report.released if self._lets_go(state)]
            if whole is None:
                whole = TransferReport()
            whole.loaded += report.loaded
            whole.discarded |= report.discarded
            whole.first_tokens |= report.first_tokens
            whole.unloadable += report.unloadable
            whole.released += released
        return whole

    def _lets_go(self, state: RequestState) -> bool:
        left = self._holders.pop(state, 1) - 1
        if left:
            self._holders[state] = left
        return not left

    def finished(self, state: RequestState, now: int) -> bool:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        self._loader.pop(state, None)
        holders = sum([member.finished(state, now) for member in self.members])
        if holders > 1:
            self._holders[state] = holders
        return holders > 0

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        return min(member.quiet_until_ns() for member in self.members)

    def has_work(self) -> bool:
        """See :class:`~penstock.scheduler.kv_connector.KVConnector`."""
        return any(member.has_work() for member in self.members)


class CallingStack(StackedConnector):
    """One with members that answer :data:`~penstock.scheduler.kv_connector.UNTIL_CALLED`."""

    def called(self, now: int) -> list[RequestState]:
        """See :class:`~penstock.scheduler.kv_connector.CallsBack`."""
        callers = [member for member in self.members if isinstance(member, CallsBack)]
        return [state for caller in callers for state in caller.called(now)]


def stack_connectors(members: Sequence[KVConnector]) -> KVConnector:
    """``members`` as one."""
    calls = any(isinstance(member, CallsBack) for member in members)
    return CallingStack(members) if calls else StackedConnector(members)


class StackedWorkers:
    """A :class:`~penstock.kv_transfer.step_workers.StepWorkers` of the workers of several connectors. Whoever may hold
    a step back stands last."""

    def __init__(self, members: Sequence[StepWorkers]) -> None:
        self.members = tuple(members)

    def started(self, step: Step, stage: int, start_ns: int, end_ns: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        for member in self.members:
            member.started(step, stage, start_ns, end_ns)

    def passed(self, step: Step, now: int, stage_free_ns: list[int]) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`. What has to be out first is waited for first
        (``handle_preemptions``)."""
        return max([member.passed(step, now, stage_free_ns) for member in reversed(self.members)])

    def quiet_until_ns(self) -> int:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        return min(member.quiet_until_ns() for member in self.members)

    def went_by(self, older: int, times: Sequence[Sequence[int]]) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        for member in self.members:
            member.went_by(older, times)

    def collect(self, now: int) -> None:
        """See :class:`~penstock.kv_transfer.step_workers.StepWorkers`."""
        for member in self.members:
            member.collect(now)


def find_workers(workers: StepWorkers | None, kind: type[Workers]) -> Workers | None:
    """Those of a kind, alone or in a stack."""
    members = workers.members if isinstance(workers, StackedWorkers) else (workers,)
    return next((member for member in members if isinstance(member, kind)), None)
