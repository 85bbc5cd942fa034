"""Members of a ``config.json``, read one by one; mistakes are gathered, each with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import Problem
from penstock.files.place import Place
from penstock.spec.check import shown


class ConfigMembers:
    """One config; after a mistake a harmless value stands in, so that reading goes on."""

    def __init__(self, file: str, data: Mapping[str, Any], within: str = "") -> None:
        self.file = file
        self.data = data
        self.problems: list[Problem] = []
        self._within = within

    def place(self, key: str) -> str:
        """Where a member stands."""
        return str(Place(self.file, f"{self._within}.{key}" if self._within else key))

    def blame(self, key: str, message: str) -> None:
        """Note a mistake in a member."""
        self.problems.append(Problem(self.place(key), message))

    def has(self, key: str) -> bool:
        """Whether a member is there and not null."""
        return self.data.get(key) is not None

    def first(self, keys: Sequence[str]) -> str | None:
        """The first of ``keys`` that is there and not 0."""
        return next((key for key in keys if self.data.get(key)), None)

    def count(self, key: str, default: int | None = None) -> int:
        """A positive integer; 1 after a mistake."""
        value = self.data.get(key)
        if value is None and default is not None:
            return max(default, 1)
        if value is None:
            message = f"missing key '{key}': not a decoder-only model's config?"
            self.problems.append(Problem(self.file, message))
        elif type(value) is not int:
            self.blame(key, f"must be an integer, not {shown(value)}")
        elif not 0 < value <= 1 << 32:
            self.blame(key, f"must be > 0 and <= 2^32, not {value}")
        else:
            return value
        return 1

    def counter(self, key: str, default: int = 0) -> int:
        """An integer that may be 0."""
        value = self.data.get(key)
        if value in (None, 0) and type(value) is not bool:
            return default if value is None else 0
        return self.count(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.data.get(key)
        if value is not None and not isinstance(value, bool):
            self.blame(key, f"must be true or false, not {shown(value)}")
            return default
        return default if value is None else value

    def per_layer(self, key: str, layers: int) -> list[Any] | None:
        """A list with one entry per layer, or None where there is none."""
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or len(value) != layers:
            found = f"{len(value)} entries" if isinstance(value, list) else shown(value)
            self.blame(key, f"must have one entry for each of the {layers} layers, not {found}")
            return None
        return value
