"""Files appear whole or not at all, several together; a process that was killed leaves nothing for long."""

from __future__ import annotations

import errno
import gc
import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from penstock.errors import UserError
from penstock.files import writing
from penstock.files.frames import frames_written, plain_cell, write_csv, write_parquet
from penstock.files.writing import all_or_nothing, atomic_write, atomic_write_bytes


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def failing_at(monkeypatch: pytest.MonkeyPatch, write: int, code: int) -> None:
    """Let the n-th write of bytes fail, from 0."""
    real = writing.write_to
    count = 0

    def write_to(file: Any, data: Any) -> int:
        nonlocal count
        count += 1
        if count > write:
            raise OSError(code, os.strerror(code))
        return real(file, data)

    monkeypatch.setattr(writing, "write_to", write_to)


def frame() -> pl.DataFrame:
    return pl.DataFrame({"number": list(range(50_000)), "text": ["a"] * 50_000})


def _text(path: Path) -> None:
    with atomic_write(path) as file:
        file.writelines("line\n" for _ in range(20_000))


def _short(path: Path) -> None:
    with atomic_write(path) as file:
        file.write("after")


def _packed(path: Path) -> None:
    _text(path.with_suffix(".gz"))


def _csv(path: Path) -> None:
    write_csv(path, frame())


def _parquet(path: Path) -> None:
    write_parquet(path, frame())


def _streamed(path: Path) -> None:
    frames_written(path, lambda: iter([frame()] * 4), frame().schema, 1000)


@pytest.mark.parametrize("write", [_text, _packed, _csv, _parquet, _streamed])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("at", [0, 1])
def test_a_write_that_fails_is_one_sentence_and_leaves_what_was_there(
    write: Callable[[Path], None], code: int, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / ("x.gz" if write is _packed else "x.csv")
    target.write_text("before")
    failing_at(monkeypatch, at, code)
    with pytest.raises(UserError) as caught:
        write(tmp_path / "x.csv")
    (problem,) = caught.value.problems
    assert str(problem) == f"{target}: cannot be written: {os.strerror(code)}"
    assert target.read_text() == "before"
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize("at", range(3))
def test_of_several_files_all_appear_or_none(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").write_text("before")

    def write() -> None:
        with all_or_nothing():
            for name in range(3):
                _short(tmp_path / str(name))

    failing_at(monkeypatch, at, errno.ENOSPC)
    with pytest.raises(UserError, match="No space left"):
        write()
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1").read_text() == "before"
    monkeypatch.undo()
    write()
    assert [(tmp_path / str(name)).read_text() for name in range(3)] == ["after"] * 3
    assert names(tmp_path) == ["0", "1", "2"]


@pytest.mark.parametrize("at", range(3))
def test_a_file_that_cannot_take_its_place_brings_the_others_back(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1").write_text("before")
    real = writing.rename
    done: list[Path] = []

    def rename(temporary: Path, target: Path) -> None:
        if len(done) == at:
            raise OSError(errno.EACCES, "Permission denied")
        done.append(target)
        real(temporary, target)

    monkeypatch.setattr(writing, "rename", rename)

    def write() -> None:
        with all_or_nothing():
            for name in range(3):
                _short(tmp_path / str(name))

    with pytest.raises(UserError, match="Permission denied"):
        write()
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1").read_text() == "before"


def test_directories_made_for_a_file_that_does_not_come_go(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "a" / "b" / "c"):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from penstock.files.writing import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write("half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
WRITES = """
import sys
from penstock.files.writing import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write("whole")
"""


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = names(tmp_path)
    assert left.startswith(".penstock-")
    (tmp_path / ".mine.tmp").write_text("of someone else")
    with atomic_write(tmp_path / "open") as file:
        file.write("still being written")
        subprocess.run([sys.executable, "-c", WRITES, str(tmp_path / "b")], check=True)
        assert (tmp_path / "b").read_text() == "whole"
        assert left not in names(tmp_path)
    assert names(tmp_path) == [".mine.tmp", "b", "open"]


def test_an_open_stream_under_its_name_is_added_to(tmp_path: Path) -> None:
    script = (
        "print('first')\nfrom penstock.files.writing import atomic_write\n"
        "with atomic_write('/dev/stdout') as file:\n    file.write('second\\n')\n"
        "print('third')"
    )
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", script], check=True, stdout=out)
    assert (tmp_path / "out").read_text().split() == ["first", "second", "third"]


def test_the_same_text_packs_to_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        with atomic_write_bytes(tmp_path / name) as file:
            file.write(b"x" * 1000)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"x" * 1000


def test_a_cell_of_text_is_no_formula(tmp_path: Path) -> None:
    texts = ["=1+1", "+1", "-1", "@x", "plain", None]
    write_csv(tmp_path / "t.csv", pl.DataFrame({"text": texts, "number": [-1, 2, 3, 4, 5, 6]}))
    rows = (tmp_path / "t.csv").read_text().splitlines()
    assert rows[1:] == ["'=1+1,-1", "'+1,2", "'-1,3", "'@x,4", "plain,5", ",6"]
    assert plain_cell("=HYPERLINK()") == "'=HYPERLINK()"


def test_an_end_that_a_library_writes_late_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []

    def full(_: object, data: bytes) -> int:
        tried.append(len(data))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing, "write_to", full)
    with pytest.raises(UserError, match="No space left"), atomic_write(tmp_path / "o.gz") as file:
        file.write("text")
    gc.collect()  # the GzipFile, whose header could not be written
    assert len(tried) == 1
