"""The loop of a rank, given at each turn the messages that a real rank took in at that turn."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

from penstock.spec.data_parallel import DataParallelOptions
from penstock.spec.options import SchedulerOptions
from penstock.validate.data_parallel import GroupStage, RecordedGroupCost
from penstock.validate.real_turns import RealTurn, RealTurns

from .lockstep import Group
from .rank import Mail, Rank, Step
from .scheduler import ReferenceScheduler
from .virtual_time import Signal, VirtualTime


class ReplayedRank(Rank):
    """Takes a recorded turn's messages, whenever they came, and writes down what it does in the turn."""

    def __init__(self, rank: int, time: VirtualTime, group: Group, run: RealTurns) -> None:
        options: SchedulerOptions = run.options
        super().__init__(
            rank,
            time,
            group,
            DataParallelOptions(size=len(run.turns)),
            ReferenceScheduler(options, run.num_gpu_blocks, run.pp_size),
            Mail(lambda *_: None, lambda _: None),
        )
        for request in run.requests:
            self.trace.expect(request)
        self.did: list[dict[str, Any]] = []
        self._recorded: Iterator[RealTurn] = iter(run.turns[rank])

    def _take_input(self) -> Generator[Signal]:
        turn = next(self._recorded, None)
        if turn is None:
            yield from self.time.blocked(Signal())
            return
        for message in turn.messages:
            self._handle(*message)
        self.did.append(
            {
                "engines_running": self.engines_running,
                "step_counter": self.step_counter,
                "wave": self.wave,
                "scheduled": None,
                "dummy": False,
                "fwd": None,
                "unfinished": None,
                "goes_on": None,
            }
        )

    def _engine_step(self) -> Generator[Signal, None, bool]:
        executed = yield from super()._engine_step()
        self.did[-1]["executed"] = executed
        return executed

    def _anyone_unfinished(self, *, unfinished: bool) -> Generator[Signal, None, bool]:
        goes_on = yield from super()._anyone_unfinished(unfinished=unfinished)
        self.did[-1].update(unfinished=unfinished, goes_on=goes_on)
        return goes_on

    def _submit(self) -> Step:
        step = super()._submit()
        self.did[-1]["scheduled"] = [[each.state.request.index, each.new] for each in step.schedule.chunks]
        return step

    def _submit_forward(self, schedule: Any) -> Signal:
        self.did[-1].update(fwd=self._forwards, dummy=schedule is None)
        return super()._submit_forward(schedule)


def replay_turns(run: RealTurns) -> Sequence[Sequence[dict[str, Any]]]:
    """What each rank does, turn by turn. The cost is of no consequence: only the order is looked at."""
    time = VirtualTime()
    line = GroupStage(base_ns=1000, per_token_ns=0, per_sum_ns=0, per_context_ns=0)
    cost = RecordedGroupCost((line,) * run.pp_size, 0, 0, 0, 0)
    group = Group(time, DataParallelOptions(size=len(run.turns)), cost, tokens_back=False)
    ranks = [ReplayedRank(rank, time, group, run) for rank in range(len(run.turns))]
    while any(rank.next_ns() is not None for rank in ranks):
        rank = min(ranks, key=lambda each: float("inf") if each.next_ns() is None else each.next_ns() or 0)
        time.now = max(time.now, rank.next_ns() or 0)
        rank.act()
    return [rank.did for rank in ranks]
