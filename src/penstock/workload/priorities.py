"""Shares of requests by priority, written ``priority:share,...``."""

from __future__ import annotations

import math

from penstock.errors import Problem, UserError
from penstock.workload.jsonl import MAX_PRIORITY


def parse_priorities(text: str, option: str) -> dict[int, float]:
    """``0:20,5:80``: of 100 requests 20 have priority 0 and 80 priority 5. Shares may be in any unit.

    Raises:
        UserError: naming ``option``, with every part that is wrong.
    """
    shares: dict[int, float] = {}
    problems: list[Problem] = []
    for part in text.split(","):
        mistake = _take(part, shares)
        if mistake is not None:
            problems.append(Problem(option, mistake))
    if not problems and not sum(shares.values()):
        problems.append(Problem(option, "the shares must not all be 0"))
    if problems:
        raise UserError(problems)
    return shares


def _take(part: str, shares: dict[int, float]) -> str | None:
    """Add a part to ``shares``, or say what is wrong with it."""
    name, colon, share_text = part.partition(":")
    if not colon:
        return f"must be priority:share,... as in '0:20,5:80', got '{part}'"
    try:
        priority, share = int(name), float(share_text)
    except ValueError:
        return f"a whole number, a colon and a number, got '{part}'"
    if abs(priority) > MAX_PRIORITY:
        return f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}, got {priority}"
    if not (math.isfinite(share) and share >= 0):
        return f"share of priority {priority} must be a number >= 0, got '{share_text}'"
    if priority in shares:
        return f"priority {priority} stands twice"
    shares[priority] = share
    return None
