"""What was worked out before, by what it was worked out from: arrays of floats in files of the user's cache folder.

The folder is ``$PENSTOCK_CACHE``, else ``penstock`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; with ``PENSTOCK_CACHE=0``
nothing is kept. Whatever is wrong with it, things are worked out again, and nobody is told.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[np.float64]]

ENTRIES_MAX = 64
"""Files kept; of more, those go that were written first."""

_SUFFIX = ".arrays"


def key_of(parts: Iterable[bytes]) -> str:
    """A name for contents, in order."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def kept_arrays(key: str) -> dict[str, npt.NDArray[np.float64]] | None:
    """The arrays kept by that name, or None."""
    folder = _folder()
    if folder is None:
        return None
    try:
        header, _, body = (folder / f"{key}{_SUFFIX}").read_bytes().partition(b"\n")
        shapes: dict[str, list[int]] = json.loads(header)
        values = np.frombuffer(body, dtype=np.float64)
        found: dict[str, npt.NDArray[np.float64]] = {}
        start = 0
        for name, shape in shapes.items():
            found[name] = values[start : start + prod(shape)].reshape(shape).copy()
            start += prod(shape)
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    return found if start == len(values) else None


def keep_arrays(key: str, arrays: Arrays) -> None:
    """Keep arrays by a name."""
    folder = _folder()
    if folder is None:
        return
    header: dict[str, Any] = {name: values.shape for name, values in arrays.items()}
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        number, path = tempfile.mkstemp(dir=folder, suffix=".part")
        try:
            with os.fdopen(number, "wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                file.write(b"".join(values.tobytes() for values in arrays.values()))
            Path(path).replace(folder / f"{key}{_SUFFIX}")
        except OSError:
            Path(path).unlink(missing_ok=True)
        kept = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda one: one.stat().st_mtime_ns)
        for old in kept[:-ENTRIES_MAX]:
            old.unlink(missing_ok=True)


def _folder() -> Path | None:
    named = os.environ.get("PENSTOCK_CACHE")
    if named is not None:
        return Path(named) if named not in ("", "0") else None
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "penstock"
    except RuntimeError:
        return None
