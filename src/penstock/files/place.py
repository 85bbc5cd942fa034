"""Where in a file a mistake stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Place:
    """A spot in a file: ``cluster.json: nodes[0].instances[1]``."""

    file: str
    path: str = ""

    def key(self, name: str) -> Place:
        """The member ``name`` of the object here."""
        return Place(self.file, f"{self.path}.{name}" if self.path else name)

    def item(self, index: int) -> Place:
        """The entry ``index`` of the list here."""
        return Place(self.file, f"{self.path}[{index}]")

    def __str__(self) -> str:
        return f"{self.file}: {self.path}" if self.path else self.file


def home_expanded(name: str) -> Path:
    """A path that stands in a file, where no shell expands ``~``; what is no user's name is a file's."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)
