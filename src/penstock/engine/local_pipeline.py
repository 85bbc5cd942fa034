"""Stages whose hops have links of their own: a step's whole way is known when it is sent off."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from penstock.cost.step_cost import PipelineCost
from penstock.engine.executor import Arrived, HoldBack, Started
from penstock.pipeline.pipeline import Pipeline
from penstock.scheduler.step import Step


class LocalPipeline:
    """An :class:`~penstock.engine.executor.Executor`. ``back_ns`` is the way of a result from the last stage's
    worker to the engine, beyond the transfer of the tokens."""

    def __init__(
        self, cost: PipelineCost, pp_size: int, *, blocking_sends: bool = False, back_ns: int = 0
    ) -> None:
        self.pp_size = pp_size
        self.cost = cost
        self.back_ns = back_ns
        self._pipeline = Pipeline(cost, pp_size, blocking_sends=blocking_sends)
        self.stage_free_ns = self._pipeline.stage_free_ns
        self.submit = self._pipeline.submit
        self._stage_ns = cost.stage.stage_ns
        self._return_ns = cost.token_return_ns
        self._started: Started | None = None
        self._hold_back: HoldBack | None = None

    @property
    def latest_times(self) -> list[int]:
        """``arrive, start, end`` of the latest step on every stage, one after the other."""
        return self._pipeline.times

    def launch(self, step: Step, entry_ns: int) -> Sequence[int]:
        """See :class:`~penstock.engine.executor.Executor`."""
        after = step.after
        if after is not None and after.end_ns > entry_ns:
            entry_ns = after.end_ns
        pipeline = self._pipeline
        step.end_ns = end = pipeline.submit(
            entry_ns,
            step.tokens,
            self._stage_ns(step),
            None if self._hold_back is None else partial(self._hold_back, step),
        )
        step.done_ns = end + self._return_ns[step.sampled] + self.back_ns
        if self._started is not None:
            times = pipeline.times
            for stage in range(self.pp_size):
                self._started(step, stage, times[3 * stage + 1], times[3 * stage + 2])
        return pipeline.times

    def pass_empty(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        last = self.stage_free_ns[-1]
        step.done_ns = last if last > now else now

    def when_arrived(self, arrived: Arrived) -> None:
        """Nothing is ever left open here."""

    def when_started(self, started: Started) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        self._started = started

    def ask_before_start(self, hold_back: HoldBack) -> None:
        """See :class:`~penstock.engine.executor.Executor`."""
        self._hold_back = hold_back
