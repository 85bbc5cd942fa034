"""The columns behind a workload."""

from __future__ import annotations

from array import array
from types import GeneratorType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.workload.describe import describe
from penstock.workload.workload import Call, Columns, RaggedInts, SparseInts, Workload


@given(st.dictionaries(st.integers(0, 20), st.lists(st.integers(0, 9), min_size=1, max_size=4)))
def test_ragged_rows_come_back_and_others_are_absent(rows: dict[int, list[int]]) -> None:
    ragged = RaggedInts()
    for row in sorted(rows):
        ragged.put(row, array("i", rows[row]))
    for row in range(25):
        got = ragged.get(row)
        assert (got.tolist() if got else None) == rows.get(row)


@given(st.lists(st.integers(-3, 3), max_size=20))
def test_sparse_rows_come_back_and_zeros_in_front_take_no_room(values: list[int]) -> None:
    sparse = SparseInts()
    for row, value in enumerate(values):
        sparse.put(row, value)
    assert [sparse.get(row) for row in range(len(values) + 2)] == [*values, 0, 0]
    assert sparse.dense(len(values)).tolist() == values
    assert bool(sparse) == any(values)


def test_from_columns() -> None:
    workload = Workload.from_columns([5, 3], [10, 20], [1, 2], "two")
    assert [(r.index, r.arrival_ns, r.input_tokens, r.output_tokens) for r in workload.requests()] == [
        (1, 3, 20, 2),
        (0, 5, 10, 1),
    ]
    assert (len(workload), workload.first_arrival_ns, workload.source) == (2, 3, "two")
    with pytest.raises(ValueError, match="columns differ in length"):
        Workload.from_columns([5], [10, 20], [1, 2], "two")


def test_requests_are_built_one_by_one() -> None:
    workload = Workload.from_columns(range(1000), [1] * 1000, [1] * 1000, "many")
    assert isinstance(workload.requests(), GeneratorType)


def test_calls_of_a_session_keep_their_tool_durations() -> None:
    columns = Columns()
    columns.add_plain(0, 1, 1)
    columns.add_session(5, [Call(1, 2, 30), Call(3, 4, 50)])
    columns.add_session(6, [Call(7, 8, 70)])
    workload = Workload(columns, "test")
    assert workload.calls_of_session(0) == [Call(1, 2, 30), Call(3, 4, 50)]
    assert workload.calls_of_session(1) == [Call(7, 8, 70)]
    assert [r.session for r in map(workload.request, range(4))] == [None, 0, 0, 1]


def test_priorities_are_counted_or_where_there_are_many_bounded() -> None:
    def described(priorities: list[int]) -> object:
        columns = Columns()
        for priority in priorities:
            columns.add(0, Call(1, 1, priority=priority))
        return describe(Workload(columns, "test")).get("priorities")

    assert described([0, 0]) is None
    assert described([0, 2, 0, -1]) == {"-1": 1, "0": 2, "2": 1}
    assert described(list(range(11))) == {"different": 11, "min": 0, "max": 10}
