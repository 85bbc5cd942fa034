"""The one place that writes: files appear whole or not at all, several together if asked for.

A file is written beside its place under a temporary name (``.penstock-<random>.tmp``), which is locked while the
process that made it lives, and then renamed. A process that was killed leaves temporary files that nobody locks:
whoever next writes in that directory removes them.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import secrets
import stat
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, TextIO, cast

from penstock.errors import Problem, UserError
from penstock.files.pipes import is_pipe, open_to_write
from penstock.files.use import is_device_name, was_read

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

_TEMPORARY = re.compile(r"\.penstock-[0-9a-f]{16}\.tmp")


@dataclass(slots=True)
class _Staged:
    """A file written under its temporary name, and where it belongs. ``lock`` is a descriptor that holds the lock,
    -1 once the file is in its place; ``made`` are the directories that were made for it, outermost first."""

    temporary: Path
    target: Path
    shown: str
    lock: int
    made: tuple[Path, ...] = ()


_batch: ContextVar[list[_Staged] | None] = ContextVar("files to appear together", default=None)
_open_temporaries: set[Path] = set()
_swept: set[tuple[int, int]] = set()


@contextmanager
def all_or_nothing() -> Generator[None]:
    """All files written inside the block appear when it ends, none if it raises. Blocks within blocks are one.

    Raises:
        UserError: a file cannot be put in its place; those that were are taken back.
    """
    if _batch.get() is not None:
        yield
        return
    staged: list[_Staged] = []
    token = _batch.set(staged)
    try:
        yield
        _batch.reset(token)
        token = None
        _commit(staged)
    finally:
        if token is not None:
            _batch.reset(token)
        for one in reversed(staged):
            _discard(one)


@contextmanager
def atomic_write(path: str | Path) -> Generator[TextIO]:
    """Open ``path`` for UTF-8 text (``\\n`` ends a line); it appears when the block ends without error, or with the
    others of :func:`all_or_nothing`.

    A name ending in ``.gz`` is compressed. Missing parent directories are made. On an error, Ctrl-C included,
    the temporary file is removed and whatever stood at ``path`` stays as it was. A device or pipe
    (``/dev/stdout``) is written directly.

    Raises:
        UserError: the file cannot be written, or this command has read it.
    """
    with atomic_write_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
        try:
            yield text
            text.flush()
        finally:
            with suppress(OSError, ValueError):
                text.detach()


@contextmanager
def atomic_write_bytes(path: str | Path) -> Generator[BinaryIO]:
    """As :func:`atomic_write`, for bytes. The gzip header holds no time and no name: same input, same
    bytes."""
    with _explained(path):
        target = Path(os.path.realpath(path))
        special = is_device_name(path) or _is_special(target)
    if special:
        with _opened_device(path, target) as direct:
            yield direct
        return
    with _explained(path):
        read_as = was_read(target)
        if read_as is not None:
            raise UserError([_is_input(path, read_as)])
        if target.is_dir():
            raise IsADirectoryError(21, "Is a directory")
        made = _make_directories(target.parent)
        try:
            _sweep(target.parent)
            one = _begin(target, str(path), made)
        except BaseException:
            _remove_directories(made)
            raise
    output = _Output(os.fdopen(os.dup(one.lock), "wb"))
    try:
        yield from _written(output, is_packed=target.suffix == ".gz")
        output.finish()
        read_as = was_read(target)
        if read_as is not None:  # meanwhile
            raise UserError([_is_input(path, read_as)])
        batch = _batch.get()
        if batch is None:
            _commit([one])
        else:
            batch.append(one)
            one = None
    except Exception as error:
        # Libraries that write through the file may tell its failure in other words.
        if output.failure is not None and not isinstance(output.failure, BrokenPipeError):
            raise _refused(path, output.failure) from error
        raise
    finally:
        output.abandon()
        if one is not None:
            _discard(one)


def _written(output: _Output, *, is_packed: bool) -> Generator[BinaryIO]:
    raw = cast("BinaryIO", output)
    if not is_packed:
        yield raw
        return
    with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
        yield cast("BinaryIO", packed)


def unwritable(path: str | Path | os.PathLike[str]) -> str | None:
    """Why ``path`` could not be written, or None: to refuse it before a run, not after. Makes nothing."""
    try:
        return _obstacle(path)
    except (OSError, ValueError) as error:  # too long a name, a null byte in it
        return str(getattr(error, "strerror", None) or error)


def remove_temporaries() -> None:
    """Remove what this process has not finished writing: for an end that runs no ``finally``."""
    for path in list(_open_temporaries):
        with suppress(OSError):
            path.unlink()


def _obstacle(path: str | Path | os.PathLike[str]) -> str | None:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        return "is a directory"
    if target.exists() and not os.access(target, os.W_OK):
        return "no permission to write"
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        return f"{parent} is not a directory"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"no permission to write in {parent}"


def _is_special(target: Path) -> bool:
    return target.exists() and not stat.S_ISREG(target.stat().st_mode) and not target.is_dir()


@contextmanager
def _opened_device(path: str | Path, target: Path) -> Generator[BinaryIO]:
    """A device, or a stream of ours under its name: what stands behind it is added to, never replaced."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            if os.path.samestat(target.stat(), os.fstat(stream.fileno())):
                stream.flush()
                with os.fdopen(os.dup(stream.fileno()), "wb") as own:
                    yield cast("BinaryIO", own)
                return
    with _explained(path):
        opener = open_to_write(path) if is_pipe(path) else path
        direct = open(opener, "wb")  # noqa: PTH123, SIM115 (a descriptor of a pipe; closed below)
    with direct:
        yield direct


class _Output(io.RawIOBase):
    """A file that remembers its first failure."""

    def __init__(self, file: io.BufferedWriter) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._file = file

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: Any, /) -> int:
        """Write all of it."""
        if self._file.closed:  # a GzipFile whose header failed writes its end when it is collected
            return len(data)
        with self._noted():
            return write_to(self._file, data)

    def flush(self) -> None:
        """Hand everything to the operating system."""
        if not self._file.closed:
            with self._noted():
                self._file.flush()

    def finish(self) -> None:
        """Flush and close, failures included."""
        with self._noted():
            self._file.close()

    def abandon(self) -> None:
        """Close whatever has happened."""
        with suppress(OSError):
            self._file.close()

    def close(self) -> None:
        """Leave the file to :meth:`finish`: libraries close what they were given."""

    def seekable(self) -> bool:
        """As the file."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """As the file's."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As the file's."""
        return self._file.tell()

    @contextmanager
    def _noted(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            raise


def write_to(file: IO[bytes], data: Any) -> int:
    """Every byte of every file goes through here; tests let it fail."""
    return file.write(data)


def append_to(file: IO[bytes], data: bytes) -> None:
    """Add to a journal and wait until it is on the disk; on a failure what was added in part is taken back."""
    before = file.seek(0, os.SEEK_END)
    try:
        write_to(file, data)
        file.flush()
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(before)
        raise


@contextmanager
def _explained(path: str | Path) -> Generator[None]:
    """Turn the operating system's refusal into the user's message."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error
    except ValueError as error:  # a null byte in the name
        raise UserError([Problem(str(path), f"cannot be written: {error}")]) from error


def _is_input(path: str | Path, read_as: str) -> Problem:
    return Problem(str(path), f"cannot be written: an input of this run ({read_as})")


def _refused(path: str | Path, error: OSError) -> UserError:
    return UserError([Problem(str(path), f"cannot be written: {error.strerror or error}")])


def _make_directories(directory: Path) -> tuple[Path, ...]:
    """Make what is missing of the way to a directory; returns what was, outermost first."""
    missing: list[Path] = []
    while not directory.exists():
        missing.insert(0, directory)
        directory = directory.parent
    made: list[Path] = []
    try:
        for one in missing:
            one.mkdir(exist_ok=True)
            made.append(one)
        if not directory.is_dir():
            raise NotADirectoryError(20, f"{directory} is not a directory")
    except BaseException:
        _remove_directories(made)
        raise
    return tuple(made)


def _remove_directories(made: Sequence[Path]) -> None:
    for directory in reversed(made):
        with suppress(OSError):  # not empty: someone else's by now
            directory.rmdir()


def _begin(target: Path, shown: str, made: tuple[Path, ...]) -> _Staged:
    """A new temporary file beside ``target``, locked."""
    while True:
        temporary = target.with_name(f".penstock-{secrets.token_hex(8)}.tmp")
        _open_temporaries.add(temporary)
        try:
            lock = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
        except BaseException:
            _open_temporaries.discard(temporary)
            raise
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        with suppress(OSError):
            if os.path.samestat(temporary.stat(), os.fstat(lock)):
                return _Staged(temporary, target, shown, lock, made)
        os.close(lock)  # swept away between its birth and its lock
        _open_temporaries.discard(temporary)


def _discard(one: _Staged) -> None:
    if one.lock >= 0:
        with suppress(OSError):
            one.temporary.unlink()
        _release(one)
        _remove_directories(one.made)


def _release(one: _Staged) -> None:
    with suppress(OSError):
        os.close(one.lock)
    one.lock = -1
    _open_temporaries.discard(one.temporary)


def _commit(staged: list[_Staged]) -> None:
    """Rename all; if one fails, put back what stood there before."""
    done: list[tuple[Path, bool, Path | None]] = []
    alone = len(staged) == 1
    try:
        for one in staged:
            existed = one.target.exists()
            done.append((one.target, existed, None if alone or not existed else _second_name(one.target)))
            with _explained(one.shown):
                rename(one.temporary, one.target)
            _release(one)
    except BaseException:
        for target, existed, kept in reversed(done[:-1]):
            with suppress(OSError):
                if kept is not None:
                    kept.replace(target)
                elif not existed:
                    target.unlink()
        raise
    finally:
        for _, _, kept in done:
            if kept is not None:
                with suppress(OSError):
                    kept.unlink()


def rename(temporary: Path, target: Path) -> None:
    """Every file takes its place here; tests let it fail."""
    temporary.replace(target)


def _second_name(target: Path) -> Path | None:
    """Another link to what stands at ``target``, which may have to come back; None on a file system without links."""
    kept = target.with_name(f".penstock-{secrets.token_hex(8)}.tmp")
    try:
        os.link(target, kept)
    except OSError:
        return None
    return kept


def _sweep(directory: Path) -> None:
    """Remove the temporary files of processes that were killed; once for each directory."""
    found = directory.stat()
    place = found.st_dev, found.st_ino
    if place in _swept:
        return
    _swept.add(place)
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name) and Path(entry.path) not in _open_temporaries:
                _remove_if_abandoned(Path(entry.path))


def _remove_if_abandoned(path: Path) -> None:
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(descriptor)
