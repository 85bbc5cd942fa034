"""Which files a command reads and writes: no output may be an input, or another output.

A command says what it reads and writes before it begins (:class:`FileUse`); the readers of this room add what they
open besides, such as the model that a cluster config names. Files are told apart by device and inode, whatever
links and spellings lead there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from penstock.errors import Problem, UserError

AnyPath = str | os.PathLike[str]
Paths = AnyPath | Iterable[AnyPath] | None
Identity = tuple[object, ...]

_DEVICES = ("/dev/", "/proc/")


@contextmanager
def noting_reads() -> Generator[dict[Identity, str]]:
    """Collect the identity and name of every file that is read inside the block."""
    noted: dict[Identity, str] = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


_noted: ContextVar[dict[Identity, str] | None] = ContextVar("files read", default=None)


def note_read(path: AnyPath) -> None:
    """A reader has opened ``path``."""
    noted = _noted.get()
    identity = None if noted is None else identity_of(path)
    if noted is not None and identity is not None:
        noted.setdefault(identity, os.fspath(path))


def was_read(path: AnyPath) -> str | None:
    """The name under which the file at ``path`` was read in this command, or None."""
    noted = _noted.get()
    identity = identity_of(path) if noted else None
    return None if noted is None or identity is None else noted.get(identity)


def identity_of(path: AnyPath) -> Identity | None:
    """What a path leads to: device and inode, or, where nothing is there yet, those of the nearest directory above
    and the names below it. None for devices and pipes, and for what no file can be called."""
    text = os.fspath(path)
    try:
        real = Path(os.path.realpath(text))
        below: list[str] = []
        while True:
            try:
                found = real.stat()
                break
            except (FileNotFoundError, NotADirectoryError):
                below.append(real.name)
                if real.parent == real:
                    return None
                real = real.parent
    except (OSError, ValueError):
        return None
    if not below and not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        return None
    return (found.st_dev, found.st_ino, *reversed(below))


def name_problem(path: AnyPath) -> str | None:
    """Why no file of this name is read or written, or None."""
    text = os.fspath(path)
    if not text:
        return "must not be empty"
    if "\0" in text:
        return "no file can be called that: it holds a null byte"
    home = text.split("/", 1)[0]
    if home.startswith("~") and (home == "~" or "/" in text) and not Path(home).exists():
        return f"the shell has not expanded '{home}': write the directory itself, or ./{text}"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "the name is not UTF-8: rename it, reports could not show it"
    return None


class FileUse:
    """What a command reads and writes, each by the option that names it; a value may be one path, several, or None.

    >>> use = FileUse(reads={"--dataset": "a.jsonl"}, writes={"--output": "./a.jsonl"})
    >>> [str(problem) for problem in use.problems()]
    ['--output: ./a.jsonl cannot be written: an input of this run (--dataset)']
    """

    def __init__(self, *, reads: Mapping[str, Paths], writes: Mapping[str, Paths]) -> None:
        self._reads = [(option, path) for option, paths in reads.items() for path in _listed(paths)]
        self._writes = [(option, path) for option, paths in writes.items() for path in _listed(paths)]

    def problems(self) -> list[Problem]:
        """What would keep the files from being written, or destroy one of them. Nothing is made or changed."""
        from penstock.files.writing import unwritable

        found: list[Problem] = []
        taken: dict[Identity, str] = {}
        for option, path in self._reads:
            identity = identity_of(path)
            if identity is not None:
                taken.setdefault(identity, f"an input of this run ({option})")
        told: set[tuple[str, str]] = set()
        for option, path in self._writes:
            problem = name_problem(path)
            if problem is None:
                identity = identity_of(path)
                problem = taken.get(identity) if identity is not None else None
                problem = problem or _noted_problem(path) or unwritable(path)
                if identity is not None:
                    taken.setdefault(identity, f"{option} writes there too")
            if problem is not None and (option, problem) not in told:
                told.add((option, problem))
                found.append(_told(option, path, problem))
        return found

    def check(self) -> None:
        """Before a command begins, and again when its inputs have been read, with what they name.

        Raises:
            UserError: with :meth:`problems`.
        """
        problems = self.problems()
        if problems:
            raise UserError(problems)


def _noted_problem(path: AnyPath) -> str | None:
    name = was_read(path)
    return None if name is None else f"an input of this run ({name})"


def _told(option: str, path: AnyPath, problem: str) -> Problem:
    if problem == "must not be empty":
        return Problem(option, problem)
    return Problem(option, f"{os.fspath(path)} cannot be written: {problem}")


def _listed(paths: Paths) -> list[AnyPath]:
    if paths is None:
        return []
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def is_device_name(path: AnyPath) -> bool:
    """Whether a path names a device or an open stream (``/dev/stdout``), whatever that is redirected to."""
    return os.fspath(path).startswith(_DEVICES)
