"""Requests may name the model that has to serve them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import UserError
from penstock.workload.formats import load_workload
from penstock.workload.workload import Workload
from penstock.workload.writer import lines

FLAT = {"input_toks": 4, "output_toks": 2, "arrival_time_ns": 5}
CALL = {"input_toks": 4, "output_toks": 2}


def load(path: Path, *records: dict[str, Any]) -> Workload:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_workload(path)


def models_of(workload: Workload) -> list[str | None]:
    return [workload.request(row).model for row in range(len(workload))]


def test_every_kind_of_json_line_can_name_it(tmp_path: Path) -> None:
    workload = load(
        tmp_path / "w.jsonl",
        FLAT,
        FLAT | {"model": "a/b"},
        {"arrival_time_ns": 6, "sub_requests": [CALL, CALL | {"model": "c"}, CALL | {"model": "a/b"}]},
        {"timestamp": 1, "input_length": 3, "output_length": 2, "model": "c"},
        FLAT | {"model": None},
    )
    assert models_of(workload) == [None, "a/b", None, "c", "a/b", "c", None]
    assert workload.names_models
    assert workload.requests_by_model() == {None: 3, "a/b": 2, "c": 2}
    assert workload.next_call(2, 100) is not None
    assert [request.model for request in workload.requests() if request.index == 1] == ["a/b"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    workload = load(
        tmp_path / "w.jsonl",
        FLAT | {"model": 'a"b', "priority": 3},
        {"arrival_time_ns": 6, "sub_requests": [CALL | {"model": "c"}, CALL]},
    )
    again = tmp_path / "again.jsonl"
    again.write_text("".join(lines(workload)))
    assert models_of(load_workload(again)) == ['a"b', "c", None]
    assert "".join(lines(load_workload(again))) == again.read_text()


def test_nothing_is_kept_where_none_is_named(tmp_path: Path) -> None:
    workload = load(tmp_path / "w.jsonl", FLAT, FLAT)
    assert not workload.names_models
    assert workload.requests_by_model() == {None: 2}
    assert "model" not in "".join(lines(workload))


@pytest.mark.parametrize("value", ["", 3, ["a"], True])
def test_a_name_is_a_string(tmp_path: Path, value: object) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path / "w.jsonl", FLAT | {"model": value})
    (problem,) = caught.value.problems
    assert "w.jsonl:1: model must be the name of a model, got " in str(problem)
