"""Names of measured link classes, which a cluster config can give in the place of bandwidth and latency."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

LINKS = Path(__file__).resolve().parent.parent / "data" / "links.json"


@cache
def link_classes() -> dict[str, Any]:
    """Class name -> its curves, as ``penstock profile network`` wrote them."""
    return json.loads(LINKS.read_text(encoding="utf-8"))["classes"]


def link_class_names() -> tuple[str, ...]:
    """All names, in the file's order."""
    return tuple(link_classes())
