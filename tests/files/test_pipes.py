"""Named pipes are read and written while somebody is at the other end, and refused where nobody comes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from penstock.errors import UserError
from penstock.files import pipes
from penstock.files.reading import read_text
from penstock.files.writing import atomic_write


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_what_somebody_writes_is_read(pipe: Path) -> None:
    writer = threading.Thread(target=lambda: pipe.write_text("text"))
    writer.start()
    assert read_text(pipe) == "text"
    writer.join()


def test_what_somebody_reads_is_written(pipe: Path) -> None:
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    with atomic_write(pipe) as file:
        file.write("text")
    reader.join()
    assert found == ["text"]
    assert pipe.is_fifo()


def test_nobody_is_waited_for_for_ever(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "PATIENCE_S", 0.05)
    with pytest.raises(UserError, match=r"cannot be read: nobody has written to this pipe for 0\.05 s"):
        read_text(pipe)
    with pytest.raises(UserError, match="cannot be written: nobody has read this pipe"), atomic_write(pipe):
        pass
