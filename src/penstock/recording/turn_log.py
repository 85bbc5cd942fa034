"""The turns of one instance on their way to the sinks: rows that are begun, completed, and handed on in chunks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from penstock.recording.records import TURN_COLUMNS, TurnChunk, TurnSink
from penstock.units import NEVER_NS, Int64Array

CHUNK_TURNS = 2048
_SCHEDULE_COLUMN = TURN_COLUMNS.index("schedule_ns")
_DONE_COLUMN = TURN_COLUMNS.index("done_ns")
_UPDATE_COLUMN = TURN_COLUMNS.index("update_ns")


class TurnLog:
    """A row per turn, in the order of the turns. Results are taken in that order too, so a row is complete once as
    many results were taken; complete rows go to the sinks ``CHUNK_TURNS`` at a time.

    Of the turns handed on it counts ``iterations`` (those with tokens), ``dummies`` (rows without tokens that took
    time on the stages), ``empty_schedules`` (the others), ``prompt_tokens`` computed and ``generated_tokens``."""

    def __init__(self, instance: int, pp_size: int, sinks: Sequence[TurnSink] = ()) -> None:
        self.instance = instance
        self.pp_size = pp_size
        self._sinks = sinks
        self._width = len(TURN_COLUMNS) + 3 * pp_size
        # Cells of the turns not handed on yet. A list takes them twice as fast as an array would.
        self._cells: list[int] = []
        self._updates: list[int] = []
        self.iterations = 0
        self.empty_schedules = 0
        self.dummies = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self._rows = 0
        # When rows came back whose turn has not come yet: there are older ones whose results were not taken.
        self._returned: dict[int, int] = {}
        self._handed_on = 0
        self._busy_ns = np.zeros(pp_size, dtype=np.int64)

    def begin(self, turn: tuple[int, ...], times: Sequence[int]) -> int:
        """Add a turn: its values in the order of TURN_COLUMNS, and the stages' ``arrive, start, end``. Returns its
        row, counted over the whole run."""
        cells = self._cells
        cells += turn
        cells += times
        row = self._rows
        self._rows = row + 1
        return row

    def complete(self, row: int, done_ns: int, times: Sequence[int]) -> None:
        """What was not known when the row was begun. Its result must not have been taken yet."""
        place = (row - self._handed_on) * self._width
        self._cells[place + _DONE_COLUMN] = done_ns
        stages = place + len(TURN_COLUMNS)
        self._cells[stages : stages + len(times)] = times

    def taken(self, at_ns: int) -> None:
        """The engine has taken the oldest result that it had not, leaving out those that have
        :meth:`returned`."""
        self._updates.append(at_ns)
        while self._returned and (row := self._handed_on + len(self._updates)) in self._returned:
            self._updates.append(self._returned.pop(row))
        if len(self._updates) >= CHUNK_TURNS:
            self.flush()

    def returned(self, row: int, at_ns: int) -> None:
        """A row that brings no tokens has come back, before older ones perhaps."""
        if row == self._handed_on + len(self._updates):
            self.taken(at_ns)
        else:
            self._returned[row] = at_ns

    def append(self, turns: int, cells: list[int], updates: list[int]) -> None:
        """Add turns as :meth:`begin` does, ``cells`` being all their values one after the other, and results taken of
        these or earlier turns."""
        self._cells += cells
        self._rows += turns
        self._updates += updates
        if len(self._updates) >= CHUNK_TURNS:
            self.flush()

    def extend(self, rows: Int64Array) -> None:
        """Add turns whose results have been taken already, shape (turns, columns), while none is open."""
        self._cells += rows.ravel().tolist()
        self._rows += len(rows)
        self._updates += rows[:, _DONE_COLUMN].tolist()
        if len(self._updates) >= CHUNK_TURNS:
            self.flush()

    def flush(self) -> None:
        """Hand all complete turns to the sinks."""
        rows = len(self._updates)
        if not rows:
            return
        cells = rows * self._width
        packed = struct.pack(f"{cells}q", *self._cells[:cells])
        values = np.frombuffer(bytearray(packed), dtype=np.int64).reshape(rows, self._width)
        values[:, _UPDATE_COLUMN] = self._updates
        del self._cells[:cells]
        self._updates.clear()
        chunk = TurnChunk(self.instance, self.pp_size, self._handed_on, values)
        self._handed_on += rows
        has_tokens = chunk.column("tokens") > 0
        steps = int(np.count_nonzero(has_tokens))
        ran = int(np.count_nonzero(chunk.stage(0, "end") > chunk.stage(0, "start")))
        self.iterations += steps
        self.dummies += max(ran - steps, 0)
        self.empty_schedules += rows - max(ran, steps)
        self.prompt_tokens += int(chunk.column("prefill_tokens").sum())
        self.generated_tokens += int(chunk.column("sampled").sum())
        for stage in range(self.pp_size):
            self._busy_ns[stage] += np.sum(
                (chunk.stage(stage, "end") - chunk.stage(stage, "start"))[has_tokens]
            )
        for sink in self._sinks:
            sink.accept(chunk)

    @property
    def open_since_ns(self) -> int:
        """When the oldest turn was scheduled that has not been handed on; NEVER_NS if there is none."""
        return self._cells[_SCHEDULE_COLUMN] if self._cells else NEVER_NS

    def busy_ns(self) -> tuple[int, ...]:
        """Compute time of each stage over all turns handed on."""
        return tuple(int(busy) for busy in self._busy_ns)
