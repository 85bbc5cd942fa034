"""vLLM's ``MultiConnector``: an instance that exchanges KV with others and has a CPU tier.

The request's KV is loaded by the first connector that has some; all are told of everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.cost.step_cost import PipelineCost

from .connected import Connector, WorkerReport
from .kv_cache import Block
from .offloading import OffloadingConnector, OffloadingPipeline, OffloadMetadata, OffloadWorker
from .pull import PullConnector, PullWorker
from .replica import DELIVERY, Replica
from .scheduler import RequestState, Schedule


class StackedConnector:
    """``pull`` first, then ``tier``."""

    def __init__(self, pull: PullConnector, tier: OffloadingConnector) -> None:
        self.pull, self.tier = pull, tier
        self.members: tuple[Connector, ...] = (pull, tier)
        self.consumes = any(member.consumes for member in self.members)
        self.hands_over = any(member.hands_over for member in self.members)
        self.chosen: dict[int, Connector] = {}

    def added(self, state: RequestState) -> None:
        """See :class:`Connector`."""
        for member in self.members:
            member.added(state)

    def matched_tokens(self, state: RequestState, local: int) -> int | None:
        """All are asked."""
        result = 0
        for member in self.members:
            tokens = member.matched_tokens(state, local)
            if tokens is None:
                return None
            if tokens > 0 and result == 0:
                self.chosen[state.request.index] = member
                result = tokens
        return result

    def allocated(self, state: RequestState, blocks: Sequence[Block], local_blocks: int, loaded: int) -> None:
        """Only the chosen one loads. The tier hears of blocks that another fills: what it still copies from them has
        to be out before."""
        chosen = self.chosen.get(state.request.index)
        for member in self.members:
            member.allocated(state, blocks, local_blocks, loaded if member is chosen else 0)
        if loaded and chosen is not self.tier:
            self.tier.hand_out(blocks)

    def scheduled(self, schedule: Schedule) -> Any:
        """What each tells its workers."""
        return tuple(member.scheduled(schedule) for member in self.members)

    def finished(self, state: RequestState) -> bool:
        """See :class:`Connector`."""
        self.chosen.pop(state.request.index, None)
        holds = [member.finished(state) for member in self.members]
        return any(holds)

    def reported(self, report: WorkerReport) -> None:
        """See :class:`Connector`."""
        for member in self.members:
            member.reported(report)

    def has_pending_work(self) -> bool:
        """See :class:`Connector`."""
        return any(member.has_pending_work() for member in self.members)


class StackedWorker:
    """One stage's workers of both."""

    def __init__(self, pull: PullWorker, tier: OffloadWorker) -> None:
        self.pull, self.tier = pull, tier

    def moment(self, now: int, metadata: tuple[Any, OffloadMetadata]) -> WorkerReport:
        """What either sees."""
        read, copied = self.pull.moment(now, metadata[0]), self.tier.moment(now, metadata[1])
        return WorkerReport(
            read.received | copied.received, read.sent | copied.sent, read.invalid, read.failed, copied.jobs
        )


class _Copies:
    """A worker of the tier, for a pipeline whose steps tell workers of two kinds."""

    def __init__(self, tier: OffloadWorker) -> None:
        self.tier = tier

    def before_forward(self, now: int, compute_end: int, metadata: tuple[Any, OffloadMetadata]) -> int:
        return self.tier.before_forward(now, compute_end, metadata[1])

    def after_launch(self, now: int, compute_end: int, metadata: tuple[Any, OffloadMetadata]) -> None:
        self.tier.after_launch(now, compute_end, metadata[1])


class StackedReplica(Replica):
    """Stages that copies hold up, workers that read too."""

    pipeline: OffloadingPipeline

    def stack(self, cost: PipelineCost, tiers: Sequence[OffloadWorker]) -> None:
        """Before the run."""
        self.tiers = tiers
        self.pipeline = OffloadingPipeline(cost, [_Copies(tier) for tier in tiers])  # type: ignore[misc]

    def _launch(self) -> Any:
        live = super()._launch()
        if live.step.row is not None and any(self.pipeline.stalls):
            live.step.row["stall_ns"] = self.pipeline.stalls
        for tier in self.tiers:
            for end in tier.new_ends:
                self.agenda.at(end, DELIVERY, (), self.wake)
            tier.new_ends.clear()
        return live
