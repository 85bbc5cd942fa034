"""Plain text tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SAME = 0.0005
"""Figures closer than this, relative to the first, are shown as the same."""


def text_table(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Columns two spaces apart, right-aligned but for those in ``left``; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def shift(before: float, after: float, *, more_is_better: bool, shown: Callable[[float], str]) -> str:
    """``1.2 s → 300 ms better``"""
    if abs(after - before) < SAME * before:
        return f"{shown(before)}, same"
    word = "better" if (after > before) is more_is_better else "worse"
    return f"{shown(before)} → {shown(after)} {word}"
