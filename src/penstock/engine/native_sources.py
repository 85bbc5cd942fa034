"""The sources of the engine in machine code, in a checkout. Nothing is imported here that a build does not have."""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCES = Path(__file__).parents[3] / "native"


def hash_of_sources(folder: Path = SOURCES) -> str:
    """What tells one state of the sources from another."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.h"), *folder.glob("*.cpp")]):
        digest.update(path.name.encode() + b"\n")
        digest.update(path.read_bytes())
    return digest.hexdigest()
