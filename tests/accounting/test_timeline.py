from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.accounting.bubbles import CAUSE_NAMES
from penstock.accounting.stage_spans import StageCause, StageSpans
from penstock.accounting.timeline import Timeline

MS = 1_000_000


def spans(rows: list[tuple[int, int, int]]) -> StageSpans:
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return StageSpans(columns[:, 0], columns[:, 1], columns[:, 2])


@given(
    lengths=st.lists(st.tuples(st.integers(1, 9 * MS), st.sampled_from(list(StageCause))), max_size=40),
    cut=st.integers(0, 40),
    origin=st.integers(0, 3 * MS),
)
def test_every_interval_adds_up_however_the_spans_come(
    lengths: list[tuple[int, StageCause]], cut: int, origin: int
) -> None:
    at = origin
    rows: list[tuple[int, int, int]] = []
    for length, cause in lengths:
        rows.append((at, at + length, cause))
        at += length
    timeline = Timeline([1], origin, intervals=8)
    timeline.take(0, [spans(rows[:cut])])
    timeline.take(0, [spans(rows[cut:])])
    edges, table = timeline.edges_ns(), timeline.table(0)[0]
    assert edges[-1] == at
    assert table.sum(axis=1).tolist() == np.diff(edges).tolist()
    for place, (begin, end) in enumerate(pairwise(edges)):
        for cause in StageCause:
            expected = sum(max(0, min(e, end) - max(b, begin)) for b, e, of in rows if of == cause)
            assert table[place, cause] == expected


def test_a_run_that_outgrows_the_intervals_keeps_half_of_them_or_more() -> None:
    timeline = Timeline([1], 0, intervals=8)
    timeline.take(0, [spans([(0, 100 * MS, StageCause.BUSY)])])
    assert timeline.interval_ns == 16 * MS
    assert len(timeline.edges_ns()) - 1 == 7


def test_the_frame_has_a_row_per_stage_and_interval() -> None:
    timeline = Timeline([2, 1], 0)
    timeline.take(0, [spans([(0, 3 * MS, StageCause.BUSY)]), spans([(0, 2 * MS, StageCause.FILL)])])
    frame = timeline.frame()
    assert frame.columns == ["instance", "stage", "begin_ns", "end_ns", *(f"{n}_ns" for n in CAUSE_NAMES)]
    assert frame.height == 3 * 3
    assert frame.filter(instance=0, stage=1)["fill_ns"].to_list() == [MS, MS, 0]
