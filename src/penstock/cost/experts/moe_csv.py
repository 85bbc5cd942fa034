"""``moe.csv`` of a profile bundle in LLMServingSim's layout: ``tokens,activated_experts,time_us``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from penstock.cost.bundle import MAX_SIZE, MAX_US
from penstock.cost.experts.times import GridExperts
from penstock.cost.tables import FloatArray, interpolate
from penstock.errors import Problem, UserError
from penstock.files.csv_text import rows_of, shown_row

_HEADER = ["tokens", "activated_experts", "time_us"]


def read_moe_csv(path: Path, experts_per_token: int, share: float = 1.0) -> GridExperts:
    """The grid of a file.

    A number of experts is measured from that many pairs on, so each row of the grid starts at its own number of
    tokens; below it the first time holds.

    Raises:
        UserError: the file cannot be read, or holds anything but measurements; names file and line.
    """
    rows = rows_of(path)
    if next(rows, (1, []))[1] != _HEADER:
        raise UserError([Problem(f"{path}:1", f"the header must be {','.join(_HEADER)}")])
    points: dict[float, dict[float, float]] = {}
    for line, row in rows:
        try:
            tokens, experts, time = map(float, row)
        except ValueError:
            raise UserError([Problem(f"{path}:{line}", f"not a measurement: {shown_row(row)}")]) from None
        if not (0 < tokens <= MAX_SIZE and 0 < experts <= MAX_SIZE and 0 <= time <= MAX_US):
            raise UserError([Problem(f"{path}:{line}", f"not sizes and a time: {shown_row(row)}")])
        points.setdefault(experts, {})[tokens] = time
    if not points:
        raise UserError([Problem(str(path), "holds no measurement")])
    experts = np.array(sorted(points))
    tokens = np.array(sorted({size for own in points.values() for size in own}))
    us = np.array([_row(points[count], tokens) for count in sorted(points)])
    return GridExperts(experts, tokens, us, experts_per_token, share)


def _row(own: dict[float, float], tokens: FloatArray) -> FloatArray:
    sizes = np.array(sorted(own))
    return interpolate(tokens, sizes, np.array([own[size] for size in sizes]))
