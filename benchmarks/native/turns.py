"""The inner loop of an engine, alone: one decode turn after the other at pp 4.

Schedule a cohort, look its time up, take it through four stages and three links, write a row, take the oldest result.
Compiled by mypyc and by Cython's pure mode as it stands (``measure.py``); ``turns.rs`` is the same loop.
"""

from __future__ import annotations

STAGES = 4


class Cohort:
    """Decodes in lock-step, as in ``penstock.scheduler.cohort``."""

    def __init__(self, size: int, context: int) -> None:
        self.size = size
        self.offset_sum = size * context
        self.turn = 0
        self.last_ns = 0
        self.done_ns = 0
        self.needs = [size // 16] * 16


class Engine:
    """Clocks, tables, and what is written down."""

    def __init__(self) -> None:
        self.cohorts = [Cohort(32, 900 + 10 * i) for i in range(STAGES)]
        self.stage_free = [0] * STAGES
        self.link_free = [0] * (STAGES - 1)
        self.dense = [[250_000 + 1_000 * stage + 900 * n for n in range(512)] for stage in range(STAGES)]
        self.hop = [20_000 + 500 * n for n in range(512)]
        self.free = 10_000_000
        self.cells: list[int] = []
        self.gaps: list[int] = []

    def run(self, turns: int) -> int:
        """Take so many turns; returns the time at their end."""
        now = 0
        stage_free, link_free, hop, cells, gaps = (
            self.stage_free,
            self.link_free,
            self.hop,
            self.cells,
            self.gaps,
        )
        for number in range(turns):
            cohort = self.cohorts[number % STAGES]
            at = cohort.done_ns
            if at < now:
                at = now
            gaps.append(at - cohort.last_ns)
            gaps.append(cohort.size)
            cohort.last_ns = at
            now = at
            cohort.turn += 1
            size = cohort.size
            self.free -= cohort.needs[cohort.turn % 16]
            context = cohort.offset_sum + size * (cohort.turn - 1)
            attention = 2_000 + 3 * (context // size)
            cells.append(now)
            cells.append(size)
            cells.append(context)
            cells.append(self.free)
            arrive = now
            for stage in range(STAGES):
                start = stage_free[stage]
                if arrive > start:
                    start = arrive
                end = start + self.dense[stage][size] + 8 * attention
                stage_free[stage] = end
                cells.append(arrive)
                cells.append(start)
                cells.append(end)
                arrive = end
                if stage < STAGES - 1:
                    depart = link_free[stage]
                    if end > depart:
                        depart = end
                    link_free[stage] = depart + 400 * size
                    arrive = depart + hop[size]
            cohort.done_ns = arrive
            if len(cells) >= 65536:
                cells.clear()
                gaps.clear()
        return now
