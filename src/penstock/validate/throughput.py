"""Throughput and requests over time, as LLMServingSim's bench and its heartbeat lines write them."""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.cost.tables import FloatArray
from penstock.errors import Problem, UserError
from penstock.files.csv_text import measured, named_rows
from penstock.files.reading import read_text

_COLUMNS = ("t", "prompt_throughput", "gen_throughput", "running", "waiting")
_NUMBER = r"([0-9]+(?:[.][0-9]+)?)"
_RATES = re.compile(
    rf"\[{_NUMBER}s\] Avg prompt throughput: {_NUMBER} tokens/s, Avg generation throughput: {_NUMBER} tokens/s"
)
_REQUESTS = re.compile(r"Running Instance\[[0-9]+\]: ([0-9]+) reqs, Waiting: ([0-9]+) reqs")


@dataclass(frozen=True, slots=True)
class Throughput:
    """One entry per tick, at ``seconds``: tokens/s of prompts and answers, requests running and waiting in all
    instances together."""

    seconds: FloatArray
    prompt_per_s: FloatArray
    decode_per_s: FloatArray
    running: FloatArray
    waiting: FloatArray


def read_time_series(path: Path) -> Throughput:
    """``timeseries.csv`` of a measured run: ``t``, ``prompt_throughput``, ``gen_throughput``, ``running``,
    ``waiting``.

    Raises:
        UserError: it cannot be read, or the first line that holds something that is no number.
    """
    rows = array("d")
    for line, row in named_rows(path, _COLUMNS):
        try:
            rows.extend(measured(row[name]) for name in _COLUMNS)
        except ValueError:
            raise UserError([Problem(f"{path}:{line}", "holds something that is no number")]) from None
    return _series(rows)


def read_log(path: Path) -> Throughput:
    """The heartbeat lines of ``python -m serving``, here or upstream, whatever stands around them: rates of the
    cluster, then a line per instance.

    Raises:
        UserError: it cannot be read, or has no such lines.
    """
    rows = array("d")
    for line in read_text(path).splitlines():
        if rates := _RATES.search(line):
            rows.extend((*map(float, rates.groups()), 0.0, 0.0))
        elif rows and (counts := _REQUESTS.search(line)):
            rows[-2] += float(counts[1])
            rows[-1] += float(counts[2])
    if not rows:
        raise UserError([Problem(str(path), "has no line '[1.0s] Avg prompt throughput: ...'")])
    return _series(rows)


def _series(rows: array[float]) -> Throughput:
    table = np.array(rows, dtype=np.float64).reshape(-1, len(_COLUMNS))
    return Throughput(*(table[:, i] for i in range(len(_COLUMNS))))
