"""Results on disk: one JSON line per finished point, there before the next one is looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from penstock.errors import Problem, UserError
from penstock.explore.result import FAILED, PointResult


class Journal:
    """A context manager over ``results.jsonl``. What stands there from an earlier search is known at once, by key;
    points that failed are tried again. A line cut short by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, PointResult] = {}
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError([Problem(str(self.path), f"cannot be written: {reason}")]) from error
        self._read(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        whole = 0
        for line in file:
            if not line.endswith(b"\n"):
                file.truncate(whole)
                break
            whole += len(line)
            try:
                result = PointResult.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue  # of another version, or broken: the point is evaluated again
            if result.status != FAILED:
                self._known[result.key] = result

    @property
    def known(self) -> Mapping[str, PointResult]:
        """All results so far, by key."""
        return self._known

    def add(self, result: PointResult) -> None:
        """Write a result and wait until it is on the disk."""
        assert self._file is not None, "inside 'with' only"
        line = json.dumps(result.to_json(), sort_keys=True, allow_nan=False).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        # As it will be read again, so that a resumed search sees the very same.
        self._known[result.key] = PointResult.from_json(json.loads(line))
