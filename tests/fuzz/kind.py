"""One kind of input: the files of a case, and the command that reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """``files`` by name, of which those in ``mutated`` are changed; ``line`` is the command, in their directory."""

    name: str
    line: str
    files: Mapping[str, bytes]
    mutated: tuple[str, ...]
    differs: bool = False
    """Whether exit code 1, a difference found, is an answer."""
    goes_on_in: str = ""
    """A file of lines that the command reads and goes on writing. No line may be lost: one that is bad is set aside."""


def document(value: Any) -> bytes:
    """A value as a JSON file."""
    return json.dumps(value, indent=1).encode()


def lines(values: Sequence[Any]) -> bytes:
    """Values as JSON Lines."""
    return "".join(json.dumps(value) + "\n" for value in values).encode()


def write(files: Mapping[str, bytes], directory: Path) -> None:
    """Write the files of a case."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def lost_line(before: bytes, after: Mapping[str, bytes], name: str) -> bool:
    """Whether a whole line of a file that was written further is neither in it nor set aside."""
    still = after.get(name, b"").split(b"\n") + after.get(f"{name}.set-aside", b"").split(b"\n")
    return not set(before.split(b"\n")[:-1]) <= set(still)


def state(directory: Path) -> dict[str, bytes]:
    """All files below a directory; of what is no file, its name."""
    found: dict[str, bytes] = {}
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root) / name
            found[str(path.relative_to(directory))] = path.read_bytes() if path.is_file() else b""
    return found
