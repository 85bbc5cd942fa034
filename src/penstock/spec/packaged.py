"""Tables that come with the package, ``data/*.toml``."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any


def packaged(name: str) -> dict[str, Any]:
    """What the file ``name`` holds."""
    return tomllib.loads((files("penstock.data") / name).read_text(encoding="utf-8"))
