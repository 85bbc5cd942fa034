"""The turns of real data-parallel ranks against the engine's: given the messages that a real rank took in at each of
its turns, does ours do the same in it? Order only, no times."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.engine.kernel import Agenda, Phase
from penstock.engine.lockstep import LockstepGroup
from penstock.engine.lockstep_replica import LockstepReplica
from penstock.files.document import understood
from penstock.recording.turn_log import TurnLog
from penstock.scheduler.make import make_scheduler
from penstock.scheduler.request_state import RequestState
from penstock.scheduler.step import Step
from penstock.spec.data_parallel import DataParallelOptions
from penstock.units import NEVER_NS
from penstock.validate.data_parallel import GroupStage, RecordedGroupCost
from penstock.validate.real_turns import RealTurn, RealTurns, read_real_turns


def has_turns(path: Path) -> bool:
    """Whether a directory holds a real run's turns."""
    return (path / "turns.jsonl.gz").is_file()


@dataclass(frozen=True, slots=True)
class TurnsResult:
    """A run, compared."""

    case: str
    difference: str | None
    turns: int

    @property
    def line(self) -> str:
        """The report's line."""
        if self.difference is not None:
            return f"{self.case}: DIFFERENT {self.difference}"
        return f"{self.case}: equal ({self.turns} turns in order)"

    def dumped(self) -> dict[str, Any]:
        """Nothing: a real run's turns are not dumped."""
        return {}


def validate_turns(directory: Path) -> TurnsResult:
    """Compare every turn of a run.

    Raises:
        UserError: it cannot be read.
    """
    run = read_real_turns(directory)
    with understood(str(directory), "its turns cannot be taken again"):
        return _compared(run, directory)


def _compared(run: RealTurns, directory: Path) -> TurnsResult:
    ours = engine_turns(run)
    total = sum(map(len, run.turns))
    for rank, (recorded, did) in enumerate(zip(run.turns, ours, strict=True)):
        for place, (expected, actual) in enumerate(zip(recorded, did, strict=False)):
            for name, value in expected.did.items():
                if actual[name] != value:
                    text = f"at turn {place} of rank {rank}: {name}: recorded {value}, ours {actual[name]}"
                    return TurnsResult(directory.name, text, total)
        if len(did) != len(recorded):
            text = f"in the turns of rank {rank}: recorded {len(recorded)}, ours {len(did)}"
            return TurnsResult(directory.name, text, total)
    return TurnsResult(directory.name, None, total)


def engine_turns(run: RealTurns) -> Sequence[Sequence[dict[str, Any]]]:
    """What each of our ranks does, turn by turn. Any cost does: only the order is looked at."""
    agenda = Agenda()
    line = GroupStage(base_ns=1000, per_token_ns=0, per_sum_ns=0, per_context_ns=0)
    cost = RecordedGroupCost((line,) * run.pp_size, 0, 0, 0, 0)
    hop = cost.hop(run.options.max_num_batched_tokens)
    group = LockstepGroup(
        cost, len(run.turns), [hop] * (run.pp_size - 1), [0] * (run.options.max_num_seqs + 1)
    )
    ranks = [_ReplayedRank(rank, group, agenda, run) for rank in range(len(run.turns))]
    for rank in ranks:
        agenda.add(rank, Phase.ENGINE, rank.rank)
    for rank in ranks:
        rank.begin()
    while agenda.next_ns() < NEVER_NS:
        agenda.run_next(NEVER_NS, alone=False)
    return [rank.did for rank in ranks]


class _ReplayedRank(LockstepReplica):
    """Takes a recorded turn's messages, whenever they came, and writes down what it does in the turn."""

    def __init__(self, rank: int, group: LockstepGroup, agenda: Agenda, run: RealTurns) -> None:
        self.did: list[dict[str, Any]] = []
        self._recorded: list[RealTurn] = list(run.turns[rank])
        self._states = [RequestState(request, run.options.max_model_len) for request in run.requests]
        self._forwards_before = 0
        self._has_begun = False
        super().__init__(
            rank,
            rank,
            make_scheduler(run.options, run.pp_size, run.num_gpu_blocks),
            group,
            run.options,
            DataParallelOptions(size=len(run.turns)),
            TurnLog(rank, run.pp_size),
            agenda=agenda,
            tell=_nobody,
            tell_ended=_nobody,
            watcher=self,
        )
        self.rank_watcher = self

    def begin(self) -> None:
        """Start the first turn."""
        self._has_begun = True
        self._go_on_at(0)

    def _take_input(self) -> Generator[int | None, None, int]:
        self._close_turn()
        while not (self._has_begun and len(self.did) < len(self._recorded)):
            yield None
        turn = self._recorded[len(self.did)]
        for kind, subject, detail in turn.messages:
            if kind == "add":
                state = self._states[subject.index]
                self.inbox.append(state)
                self._mail.append((state, detail, None))
            else:
                self._mail.append((None, subject, detail))
            self._read()
        self._has_read = True
        self._forwards_before = self.pipeline.submitted
        self.did.append(
            {
                "engines_running": self.engines_running,
                "step_counter": self.step_counter,
                "wave": self.wave,
                "scheduled": None,
                "executed": False,
                "dummy": False,
                "unfinished": None,
                "goes_on": None,
                "fwd": None,
            }
        )
        return self.now_ns

    def _close_turn(self) -> None:
        if not self.did or self.pipeline.submitted == self._forwards_before:
            return
        status = self.scheduler.status()
        self.did[-1].update(
            fwd=self._forwards_before,
            unfinished=status.running + status.waiting > 0,
            goes_on=self.engines_running,
        )

    def added(self, state: RequestState, now: int) -> None:
        """Nothing to note."""

    def scheduled(self, step: Step, now: int) -> None:
        """See :class:`~penstock.engine.replica.Watcher`."""
        entries = [[state.request.index, new] for state, new, _ in step.contents()]
        self.did[-1].update(scheduled=entries, executed=bool(step.tokens))

    def updated(self, step: Step, now: int, ended: Sequence[RequestState]) -> None:
        """Nothing to note."""

    def dummy(self, replica: LockstepReplica, submitted_ns: int, returned_ns: int) -> None:
        """See :class:`~penstock.engine.lockstep_replica.RankWatcher`."""
        self.did[-1]["dummy"] = True


def _nobody(*_: object) -> None:
    """The coordinator and the front-ends: their messages are recorded ones."""
