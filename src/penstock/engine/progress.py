"""How far a run is, for whoever waits for it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from penstock.recording.records import TurnChunk


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: simulated time, and requests finished or rejected out of all."""

    simulated_ns: int
    finished: int
    total: int


class ProgressSink:
    """A :class:`~penstock.recording.records.TurnSink`. Turns come by in chunks all through a run: a good moment to
    ``report`` the simulated time."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self._report = report

    def accept(self, chunk: TurnChunk) -> None:
        """See :class:`~penstock.recording.records.TurnSink`."""
        self._report(int(chunk.column("update_ns")[-1]))


@contextmanager
def no_collection(*, unless: bool) -> Generator[None]:
    """Without the search for cycles: nothing that a run lets go of is in one, and to look for them among a million
    live requests again and again takes a good part of its time. Not where code of others runs meanwhile."""
    if unless or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
