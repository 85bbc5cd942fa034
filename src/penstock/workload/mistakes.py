"""The mistakes of one file, by line: the first in full, the others counted."""

from __future__ import annotations

from collections.abc import Collection

from penstock.errors import Problem, UserError, nearest

SHOWN = 20
"""Mistakes reported in full; a file with a wrong column has one per line."""

HOPELESS = 10
"""So many mistakes and not one request: a file of another kind."""


class Mistakes:
    """Collects what is wrong with a file and raises it as one error."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._problems: list[Problem] = []
        self._more = 0

    def add(self, line: int, message: str) -> None:
        """One mistake on a line."""
        if len(self._problems) < SHOWN:
            self._problems.append(Problem(f"{self._file}:{line}", message))
        else:
            self._more += 1

    def count(self) -> int:
        """How many so far."""
        return len(self._problems) + self._more

    def check_keys(
        self,
        line: int,
        place: str,
        record: Collection[str],
        required: Collection[str],
        valid: Collection[str],
    ) -> None:
        """Unknown keys with the nearest valid name, and missing ones that no unknown key stands for.

        ``place`` stands before each key in the messages.
        """
        meant: set[str] = set()
        for key in record:
            if key not in valid:
                hint = nearest(key, [name for name in valid if name not in record])
                meant.update(name for name in required if f"'{name}'" in hint)
                self.add(line, f"unknown key '{place}{key}'{hint}")
        for key in required:
            if key not in record and key not in meant:
                self.add(line, f"missing key '{place}{key}'")

    def raise_if_any(self, read: int) -> None:
        """Raise UserError with all mistakes, if there are some; with the first alone where none of many lines could be
        ``read``: then the file is of another kind, or has one mistake in every line."""
        if not self._problems:
            return
        if not read and self.count() >= HOPELESS:
            rest = f"no line of it is a request, and {self.count() - 1} more mistakes are like the first"
            raise UserError([self._problems[0], Problem(self._file, rest)])
        more = [Problem(self._file, f"... and {self._more} more")] if self._more else []
        raise UserError([*self._problems, *more])
