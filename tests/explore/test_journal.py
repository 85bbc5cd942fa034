"""The journal of a search: what is read again is what was written, or is said not to be."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import UserError
from penstock.explore.design_point import DesignPoint
from penstock.explore.journal import Journal
from penstock.explore.result import OK, PointResult
from penstock.files import writing


def result(key: str, rate: float = 1.5) -> PointResult:
    point = DesignPoint(hardware="H100", tp=1, pp=1, replicas=1)
    return PointResult(key=key, phase="full", point=point, status=OK, rate_per_s=rate)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three results."""
    found = tmp_path / "results.jsonl"
    with Journal(found) as journal:
        for key in "abc":
            journal.add(result(key))
    return found


def test_what_was_written_is_known_again(path: Path) -> None:
    with Journal(path) as journal:
        assert dict(journal.known) == {key: result(key) for key in "abc"}
        assert not journal.notices


def _changed(line: dict[str, Any]) -> bytes:
    return json.dumps({**line, "rate_per_s": 99.0}).encode() + b"\n"


def _without_checksum(line: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in line.items() if name != "checksum"}).encode() + b"\n"


BROKEN = {
    "a changed figure": _changed,
    "no checksum": _without_checksum,
    "cut": lambda line: json.dumps(line).encode()[:40] + b"\n",
    "no text": lambda line: b"\xff\xfe\x00\n",
    "no object": lambda line: b"[1, 2]\n",
    "a number": lambda line: b"7\n",
    "deep": lambda line: b"[" * 100_000 + b"\n",
    "a member twice": lambda line: json.dumps(line).encode()[:-1] + b', "key": "x"}\n',
    "half a surrogate": lambda line: b'{"\\ud800": 1}\n',
    "blank": lambda line: b"\n",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_line_is_set_aside_and_said(kind: str, path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    bad = BROKEN[kind](json.loads(lines[1]))
    path.write_bytes(lines[0] + bad + lines[2])
    with Journal(path) as journal:
        assert sorted(journal.known) == ["a", "c"]
        (notice,) = journal.notices
        assert notice.startswith(f"{path}: set aside into results.jsonl.set-aside")
        assert "lines 2 (" in notice
        journal.add(result("b"))
    assert path.with_name("results.jsonl.set-aside").read_bytes() == bad
    with Journal(path) as journal:
        assert sorted(journal.known) == ["a", "b", "c"]
        assert not journal.notices


def test_a_line_cut_short_by_a_kill_is_dropped(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with Journal(path) as journal:
        assert sorted(journal.known) == ["a", "b"]
        journal.add(result("c"))
    assert path.read_bytes() == whole


def test_a_disk_that_is_full_is_one_sentence_and_leaves_whole_lines(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(file: Any, data: bytes) -> int:
        file.write(data[:10])
        file.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path) as journal:
        monkeypatch.setattr(writing, "write_to", full)
        with pytest.raises(UserError, match="cannot be written: No space left on device"):
            journal.add(result("d"))
    assert path.read_bytes() == before


def test_two_searches_do_not_write_into_one_journal(path: Path) -> None:
    with (
        Journal(path),
        pytest.raises(UserError, match="another search writes its results here"),
        Journal(path),
    ):
        pass


def test_a_journal_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: Is a directory"), Journal(tmp_path):
        pass
