"""Results on disk: one JSON line per finished point, there before the next one is looked at.

Each line carries a checksum of its other members. A line that does not match it, or is none at all, is set aside into
``<name>.set-aside``, and said: its point is evaluated again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from penstock.errors import Problem, UserError
from penstock.explore.result import FAILED, PointResult
from penstock.files.json_text import parse_json
from penstock.files.writing import append_to, atomic_write_bytes

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

CHECKSUM = "checksum"
SET_ASIDE = ".set-aside"


class Journal:
    """A context manager over ``results.jsonl``. What stands there from an earlier search is known at once, by key;
    points that failed are tried again. A line cut short by a kill is dropped. ``notices`` say what was set aside."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: list[str] = []
        self._known: dict[str, PointResult] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        """Read what is there.

        Raises:
            UserError: the file cannot be read or written, or another search is writing it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
            self._read()
        except OSError as error:
            self._close()
            raise self._unwritable(error) from error
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def known(self) -> Mapping[str, PointResult]:
        """All results so far, by key."""
        return self._known

    def add(self, result: PointResult) -> None:
        """Write a result and wait until it is on the disk.

        Raises:
            UserError: it cannot be written; those before it are.
        """
        assert self._file is not None, "inside 'with' only"
        line = line_of(result)
        try:
            append_to(self._file, line)
        except OSError as error:
            raise self._unwritable(error) from error
        # As it will be read again, so that a resumed search sees the very same.
        self._known[result.key] = result_of(line)

    def _open(self) -> None:
        self._file = self.path.open("a+b")
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._close()
            message = "another search writes its results here: give this one another --output"
            raise UserError([Problem(str(self.path), message)]) from None
        except OSError:
            pass  # a file system without locks

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _read(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        sound: list[bytes] = []
        bad: list[bytes] = []
        places: list[str] = []
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(sum(map(len, sound + bad)))
                break
            try:
                result = result_of(line)
            except ValueError as error:
                bad.append(line)
                places.append(f"{number} ({error})")
                continue
            sound.append(line)
            if result.status != FAILED:
                self._known[result.key] = result
        if bad:
            self._set_aside(sound, bad, places)

    def _set_aside(self, sound: list[bytes], bad: list[bytes], places: list[str]) -> None:
        """Move the bad lines to a file of their own; the journal keeps the others."""
        aside = self.path.with_name(self.path.name + SET_ASIDE)
        with aside.open("ab") as file:
            append_to(file, b"".join(bad))
        with atomic_write_bytes(self.path) as file:
            file.write(b"".join(sound))
        self._close()
        self._open()
        shown = ", ".join(places[:5]) + (f" and {len(places) - 5} more" if len(places) > 5 else "")
        self.notices.append(
            f"{self.path}: set aside into {aside.name}, their points are evaluated again: lines {shown}"
        )

    def _unwritable(self, error: OSError) -> UserError:
        return UserError([Problem(str(self.path), f"cannot be written: {error.strerror or error}")])


def line_of(result: PointResult) -> bytes:
    """A result as a line of the journal, with its checksum."""
    data = result.to_json()
    return json.dumps(data | {CHECKSUM: _checksum(data)}, sort_keys=True, allow_nan=False).encode() + b"\n"


def result_of(line: bytes) -> PointResult:
    """The result of a line.

    Raises:
        ValueError: it is none, or not as it was written.
    """
    try:
        data: Any = parse_json(line.decode("utf-8"), "line")
    except (UserError, UnicodeDecodeError):
        raise ValueError("no JSON") from None
    if not isinstance(data, dict):
        raise ValueError("no object")
    members: dict[str, Any] = dict(data)
    checksum = members.pop(CHECKSUM, None)
    if checksum is None:
        raise ValueError("no checksum: of an earlier version")
    if checksum != _checksum(members):
        raise ValueError("not as it was written")
    try:
        return PointResult.from_json(members)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError("of another version") from None


def _checksum(data: Mapping[str, Any]) -> str:
    """Of everything but itself."""
    text = json.dumps(data, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
