"""What a result rests on, as text: one heading, a statement each, wrapped."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

_WIDTH = 100
"""Columns of a statement; the same everywhere, so that equal runs print equal text."""


def rests_on(basis: Iterable[str]) -> str:
    """Each statement once."""
    return "\n".join(["rests on", *(wrapped(line, "  ") for line in dict.fromkeys(basis))])


def wrapped(text: str, indent: str = "") -> str:
    """One statement, its further lines set in."""
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
