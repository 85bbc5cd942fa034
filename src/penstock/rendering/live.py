"""How far a long run is, on stderr: a display where that is a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from penstock.accounting.stage_spans import StageCause
from penstock.recording.records import Int64Array
from penstock.units import seconds

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

StageTimes = Callable[[], Sequence[Int64Array]]
"""ns so far per instance, each of shape (stages, causes)."""

FIRST_SHOWN_S = 0.7
REDRAW_S = 0.2
FIRST_LINE_S = 5.0
LINE_EVERY_S = 10.0
_BAR = 24
WIDTH = 79
"""Columns of a line: one less than the narrowest terminals have."""
_STAGES_SHOWN = 16


class RunProgress(Protocol):
    """How far a run is."""

    @property
    def simulated_ns(self) -> int:
        """Simulated time."""
        ...

    @property
    def finished(self) -> int:
        """Requests finished or rejected."""
        ...

    @property
    def total(self) -> int:
        """Requests of the workload."""
        ...


class LiveDisplay:
    """Shows progress by requests and simulated time, the rate, what is left, and each stage's busy share and
    largest bubble. Runs that end before they are worth watching show nothing.

    ``clock`` is wall time in seconds; ``stage_times`` may be set once the run is built.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        interactive: bool | None = None,
    ) -> None:
        self.stage_times: StageTimes | None = None
        self._stream = stream or sys.stderr
        self._clock = clock
        self._interactive = self._stream.isatty() if interactive is None else interactive
        self._started = clock()
        self._next_s = self._started + (FIRST_SHOWN_S if self._interactive else FIRST_LINE_S)
        self._begin_ns: int | None = None
        self._live: Live | None = None

    def update(self, progress: RunProgress) -> None:
        """Show how far the run is, if it is time for that."""
        if self._begin_ns is None:
            self._begin_ns = progress.simulated_ns
        now = self._clock()
        if now < self._next_s:
            return
        self._next_s = now + (REDRAW_S if self._interactive else LINE_EVERY_S)
        if self._interactive:
            self._draw(progress, now - self._started)
        else:
            print(self.line(progress, now - self._started), file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the display away, to make room for something else or at the end."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, progress: RunProgress, wall_s: float) -> str:
        """All in words, in one line of a terminal of 80 columns."""
        share = progress.finished / max(progress.total, 1)
        simulated_s = seconds(progress.simulated_ns - (self._begin_ns or 0))
        parts = [
            f"{share:.0%} of {progress.total:,} requests",
            f"{simulated_s:,.0f} s simulated in {wall_s:,.0f} s ({simulated_s / max(wall_s, 1e-9):,.0f}x)",
        ]
        if 0 < share < 1:
            parts.append(f"{wall_s / share - wall_s:,.0f} s left")
        return ", ".join(parts)[:WIDTH]

    def stage_lines(self) -> list[str]:
        """A bar per stage: # is busy, - a bubble, blank idle; with the largest cause."""
        if self.stage_times is None:
            return []
        lines: list[str] = []
        for instance, table in enumerate(self.stage_times()):
            for stage, spent in enumerate(table):
                total = int(spent.sum())
                if not total or len(lines) >= _STAGES_SHOWN:
                    continue
                busy, idle = int(spent[StageCause.BUSY]) / total, int(spent[StageCause.IDLE]) / total
                filled, empty = round(busy * _BAR), round(idle * _BAR)
                bar = "#" * filled + "-" * max(_BAR - filled - empty, 0) + " " * min(empty, _BAR - filled)
                bubbles = [c for c in StageCause if c not in (StageCause.BUSY, StageCause.IDLE)]
                main = max(bubbles, key=lambda cause: int(spent[cause]))
                told = f", {main.name.lower()} {int(spent[main]) / total:.0%}" if spent[main] else ""
                name = f"instance {instance} stage {stage}"
                lines.append(f"{name:<19} |{bar}| busy {busy:.0%}{told}")
        return lines

    def _draw(self, progress: RunProgress, wall_s: float) -> None:
        from rich.console import Console
        from rich.live import Live

        drawn = self._drawing(progress, wall_s)
        if self._live is None:
            console = Console(file=self._stream, force_terminal=True)
            self._live = Live(
                drawn,
                console=console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(drawn, refresh=True)

    def _drawing(self, progress: RunProgress, wall_s: float) -> Group:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        bar = ProgressBar(total=max(progress.total, 1), completed=progress.finished, width=2 * _BAR)
        texts = [
            Text(self.line(progress, wall_s)),
            *(Text(line, no_wrap=True) for line in self.stage_lines()),
        ]
        return Group(bar, *texts)
