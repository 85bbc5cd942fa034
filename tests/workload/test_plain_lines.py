"""Lines taken a block at a time are read as those taken one by one, and their mistakes are told alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.errors import UserError
from penstock.files import reading
from penstock.workload.formats import load_workload
from penstock.workload.plain_lines import PlainLines

ORDINARY = '{"input_toks": 12, "output_toks": 3, "arrival_time_ns": 0}\n'
LINES = [
    ORDINARY,
    '{"input_toks": 7, "output_toks": 1000000, "arrival_time_ns": 4611686018427387904}\n',
    '{"input_toks": 7, "output_toks": 10, "arrival_time_ns": 999999999999999999}\n',
    '{"input_toks": 07, "output_toks": 10, "arrival_time_ns": 5}\n',
    '{"input_toks": 0, "output_toks": 10, "arrival_time_ns": 5}\n',
    '{"input_toks": 7, "output_toks": 2147483648, "arrival_time_ns": 5}\n',
    '{"input_toks": 7, "output_toks": 10, "arrival_time_ns": -5}\n',
    '{"output_toks": 10, "input_toks": 7, "arrival_time_ns": 5}\n',
    '{"input_toks": 7, "output_toks": 10, "arrival_time_ns": 5, "priority": 2}\n',
    '{"input_toks": 7, "output_toks": 10, "arrival_time_ns": 5.0}\n',
    '{"input_toks": 7, "input_toks": 7, "output_toks": 10, "arrival_time_ns": 5}\n',
    "\n",
    "broken\n",
]


def outcome(path: Path, num_requests: int) -> object:
    try:
        workload = load_workload(path, num_requests)
    except UserError as error:
        return [str(problem) for problem in error.problems]
    return [workload.request(row) for row in range(len(workload))]


@given(
    lines=st.lists(st.one_of(st.just(ORDINARY), st.sampled_from(LINES)), max_size=30),
    num_requests=st.integers(0, 8),
    block=st.integers(1, 400),
    ends=st.booleans(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_are_read_as_lines_are(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    num_requests: int,
    block: int,
    ends: bool,
) -> None:
    path = tmp_path / "requests.jsonl"
    text = "".join([ORDINARY, *lines])
    path.write_text(text if ends else text.removesuffix("\n"), encoding="utf-8")
    with monkeypatch.context() as patched:
        patched.setattr(reading, "_CHUNK_BYTES", block)
        at_once = outcome(path, num_requests)
    with monkeypatch.context() as patched:
        patched.setattr(PlainLines, "like", lambda text: None)
        assert outcome(path, num_requests) == at_once


@pytest.mark.parametrize(
    "line",
    [
        '{"input_toks": 12, "output_toks": 3}',
        '{"input_toks": 12, "output_toks": 3, "arrival_time_ns": -0}',
        '{"input_toks": 12, "output_toks": 3, "arrival_time_ns": 1e3}',
        '{"input_toks": 12, "output_toks": 3, "arrival_time_ns": true}',
        '{"input_toks": 12, "output_toks": 3, "arrival_time\\u005fns": 1}',
        "[1, 2, 3]",
        "12",
    ],
)
def test_other_lines_stand_for_none(line: str) -> None:
    assert PlainLines.like(line) is None
