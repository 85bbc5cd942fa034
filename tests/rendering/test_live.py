from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from penstock.accounting.stage_spans import StageCause
from penstock.rendering.live import FIRST_LINE_S, LINE_EVERY_S, LiveDisplay


@dataclass
class At:
    simulated_ns: int
    finished: int
    total: int = 100


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_now_and_then_where_there_is_no_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    display = LiveDisplay(stream, clock=clock)
    display.update(At(1_000_000_000, 0))
    assert stream.getvalue() == ""
    clock.now += FIRST_LINE_S
    display.update(At(11_000_000_000, 25))
    display.update(At(12_000_000_000, 26))
    expected = "25% of 100 requests, 10 s simulated in 5 s (2x), 15 s left\n"
    assert stream.getvalue() == expected
    clock.now += LINE_EVERY_S
    display.update(At(31_000_000_000, 100))
    assert stream.getvalue().count("\n") == 2
    assert "left" not in stream.getvalue().splitlines()[1]


def test_a_terminal_shows_the_stages_and_is_left_clean() -> None:
    stream, clock = io.StringIO(), Clock()
    display = LiveDisplay(stream, clock=clock, interactive=True)
    table = np.zeros((2, len(StageCause)), dtype=np.int64)
    table[:, StageCause.BUSY] = 50, 75
    table[:, StageCause.MEMORY] = 25, 0
    table[:, StageCause.IDLE] = 25, 25
    display.stage_times = lambda: [table]
    display.update(At(0, 0))
    assert stream.getvalue() == ""
    clock.now += 2
    display.update(At(5_000_000_000, 50))
    shown = stream.getvalue()
    assert "50% of 100 requests" in " ".join(shown.split())
    assert "instance 0 stage 0  |############------      | busy 50%, memory 25%" in shown
    assert "instance 0 stage 1  |##################      | busy 75%" in shown
    display.clear()
    assert len(stream.getvalue()) > len(shown)
    display.clear()


def test_a_line_fits_a_terminal_of_eighty_columns() -> None:
    clock = Clock()
    display = LiveDisplay(io.StringIO(), clock=clock)
    display.update(At(0, 0))
    long = At(100_000_000_000_000, 999_999, 1_000_000)
    assert len(display.line(long, 10_000.0)) <= 79
