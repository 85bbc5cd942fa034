"""The one place that reads: what a user gives, gzipped or not, within limits, with one sentence for what is wrong."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from typing import BinaryIO, cast

from penstock.errors import Problem, UserError
from penstock.files.memory import machine_bytes
from penstock.files.pipes import is_pipe, open_to_read
from penstock.files.use import AnyPath, name_problem, note_read

MAX_CONFIG_BYTES = 64 << 20
"""Of a file that is read as a whole and written by hand or by a tool: unpacked."""

MAX_TABLE_BYTES = 4 << 30
"""Of a file of measurements, read as a whole; no more than ``MEMORY_SHARE`` of the memory either, as what is made of
it takes several times as much."""

MEMORY_SHARE = 1 / 16

MAX_LINE_BYTES = 256 << 20
"""A request with a million token ids has some 8 MB."""

MAX_BLANK_LINES = 1_000_000
"""In a row."""

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 20


@contextmanager
def opened(path: AnyPath) -> Generator[BinaryIO]:
    """The bytes of a file, unpacked where its first bytes are gzip's, whatever its name.

    Raises:
        UserError: it cannot be read, now or while the block reads it.
    """
    shown = str(path)
    problem = name_problem(path)
    if problem is not None:
        raise UserError([Problem(shown, problem)])
    try:
        with ExitStack() as stack:
            opener = open_to_read(path) if is_pipe(path) else path
            file = stack.enter_context(open(opener, "rb"))  # noqa: PTH123 (a descriptor of a pipe)
            note_read(path)
            if file.peek(2)[:2] == _GZIP_MAGIC:
                file = cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=file)))
            yield cast("BinaryIO", file)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.filename not in (None, path, shown):
            raise  # of another file
        raise UserError([Problem(shown, f"cannot be read: {_reason(error)}")]) from error


def read_bytes(path: AnyPath, limit: int = MAX_TABLE_BYTES) -> bytes:
    """The whole file.

    Raises:
        UserError: it cannot be read, or holds more than ``limit`` bytes.
    """
    memory = machine_bytes()
    limit = limit if memory is None else min(limit, int(memory * MEMORY_SHARE))
    parts: list[bytes] = []
    size = 0
    with opened(path) as file:
        while part := file.read(min(_CHUNK_BYTES, limit + 1 - size)):
            parts.append(part)
            size += len(part)
            if size > limit:
                raise UserError([Problem(str(path), f"holds more than {shown_bytes(limit)}")])
    return b"".join(parts)


def read_text(path: AnyPath, limit: int = MAX_TABLE_BYTES) -> str:
    """The whole file as UTF-8; a byte order mark is dropped.

    Raises:
        UserError: it cannot be read, is too large, or is not UTF-8.
    """
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError([Problem(str(path), f"is not UTF-8 text (byte {error.start})")]) from None


class Lines:
    """(line number, bytes) of each line that is not blank. Several lines may be taken at once, where they are alike.

    Raises:
        UserError: a line of more than ``MAX_LINE_BYTES``, or ``MAX_BLANK_LINES`` blank ones in a row.
    """

    def __init__(self, file: BinaryIO, shown: str) -> None:
        self._file = file
        self._shown = shown
        self._number = 0
        self._blank = 0
        self._refused = BytesIO()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return self

    def __next__(self) -> tuple[int, bytes]:
        while line := self._refused.readline() or self._file.readline(MAX_LINE_BYTES + 1):
            self._number += 1
            if len(line) > MAX_LINE_BYTES:
                message = f"the line holds more than {shown_bytes(MAX_LINE_BYTES)}"
                raise UserError([Problem(f"{self._shown}:{self._number}", message)])
            if not line.isspace():
                self._blank = 0
                return self._number, line
            self._blank += 1
            if self._blank > MAX_BLANK_LINES:
                message = f"{MAX_BLANK_LINES:,} blank lines in a row"
                raise UserError([Problem(f"{self._shown}:{self._number}", message)])
        raise StopIteration

    def offer(self, accept: Callable[[bytes], int]) -> int:
        """Let ``accept`` take a block of whole lines at once: it says how many they were, 0 if they have to come one by
        one. Nothing is offered while lines that were refused are left."""
        if self._refused.tell() < len(self._refused.getbuffer()):
            return 0
        block = self._file.read(_CHUNK_BYTES)
        if not block.endswith(b"\n"):
            block += self._file.readline(MAX_LINE_BYTES + 1)
        accepted = accept(block) if block else 0
        self._number += accepted
        self._refused = BytesIO(b"" if accepted else block)
        return accepted


def text_lines(path: AnyPath) -> Iterator[tuple[int, str]]:
    """(line number, text) of each line that is not blank, without its end.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8.
    """
    with opened(path) as file:
        for number, raw in Lines(file, str(path)):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise UserError([Problem(f"{path}:{number}", "is not UTF-8 text")]) from None


def shown_bytes(size: int) -> str:
    """``64 MiB``"""
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
