"""The extension module ``penstock._core``: whether it is there, and built from the sources that are there.

Its sources are in ``native/`` of a checkout. Without it, or with ``PENSTOCK_PURE=1`` in the environment, all is done in
Python. Nothing is imported here that a build does not have.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from functools import cache
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[2] / "native"


def core() -> Any | None:
    """The module, or None where Python is to do it."""
    if is_refused():
        return None
    return None if isinstance(loaded := _load(), str) else loaded


def why_pure() -> str | None:
    """Why there is no such module; None where there is."""
    if is_refused():
        return "PENSTOCK_PURE is set"
    return loaded if isinstance(loaded := _load(), str) else None


def is_refused() -> bool:
    """Whether the environment asks for Python."""
    return os.environ.get("PENSTOCK_PURE", "0") not in ("", "0")


@cache
def _load() -> Any | str:
    try:
        module: Any = importlib.import_module("penstock._core")
    except ImportError:
        return "it was not built with this installation"
    if SOURCES.is_dir() and module.sources != hash_of_sources():
        return f"it was built from other sources than those in {SOURCES}: install again"
    return module


def hash_of_sources(folder: Path = SOURCES) -> str:
    """What tells one state of the sources from another."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.h"), *folder.glob("*.cpp")]):
        digest.update(path.name.encode() + b"\n")
        digest.update(path.read_bytes())
    return digest.hexdigest()
