"""The exception tree. Everything a user can cause derives from :class:`UserError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it stands and what is wrong with it.

    ``where`` is a file with a JSON path or line number (``cluster.json: nodes[0].instances[1].pp_size``,
    ``trace.jsonl:17``), or an option (``--block-size``).
    """

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class PenstockError(Exception):
    """Base of all errors raised on purpose."""


class UserError(PenstockError):
    """Mistakes in what the user gave, all of them at once; the command line exits with 2.

    >>> raise UserError([Problem("cluster.json: nodes[0]", "missing key 'instances'")])
    """

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NoProgressError(PenstockError):
    """The watchdog's: an instance has work but nothing can ever run; names the instance and its state."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest valid name, or an empty string."""
    matches = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""
