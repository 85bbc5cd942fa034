"""The per-request CSV of LLMServingSim: a row per finished request, in file order, times in nanoseconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from penstock.accounting.metrics import RequestTable
from penstock.files.frames import plain_cell
from penstock.files.writing import atomic_write
from penstock.recording.records import RunRecord

CSV_COLUMNS = (
    "instance id",
    "request id",
    "model",
    "input",
    "output",
    "arrival",
    "end_time",
    "latency",
    "queuing_delay",
    "TTFT",
    "TPOT",
    "ITL",
)

_ROWS_AT_ONCE = 1 << 16


def write_request_csv(path: str | Path, record: RunRecord, *, itl: bool = True) -> int:
    """Write the CSV and return its number of rows.

    ``itl`` False leaves the ITL column empty. A rejected request has no times and so no row: the summary
    counts it and ``--results`` lists it.

    Raises:
        UserError: the file cannot be written.
        LookupError: ``itl`` is asked for and the run kept no token times.
    """
    if itl and not record.requests.keep_token_times:
        raise LookupError("token times were not kept: run with keep_token_times=True, or write without ITL")
    table = RequestTable.of(record)
    with atomic_write(path) as file:
        file.write(",".join(CSV_COLUMNS) + "\n")
        for rows in _rows(record, table, itl=itl):
            file.writelines(rows)
    return len(table)


def _rows(record: RunRecord, table: RequestTable, *, itl: bool) -> Iterator[Iterator[str]]:
    """The formatted rows, a bounded number at a time."""
    models = {deployment.instance: _quoted(deployment.model) for deployment in record.deployments}
    for first in range(0, len(table), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        part = RequestTable(table.values[rows], table.log_rows[rows])
        columns = zip(
            part.column("instance").tolist(),
            part.column("request").tolist(),
            part.column("input_tokens").tolist(),
            part.column("output_tokens").tolist(),
            part.column("arrival_ns").tolist(),
            part.column("finish_ns").tolist(),
            part.latency_ns.tolist(),
            part.queuing_ns.tolist(),
            part.ttft_ns.tolist(),
            part.tpot_ns.tolist(),
            strict=True,
        )
        plain = (
            f"{instance},{request},{models[instance]},{n_in},{n_out},"
            f"{arrival},{end},{latency},{queuing},{ttft},{tpot},"
            for instance, request, n_in, n_out, arrival, end, latency, queuing, ttft, tpot in columns
        )
        if itl:
            places = part.log_rows.tolist()
            yield (f'{row}"{_gaps(record, place)}"\n' for row, place in zip(plain, places, strict=True))
        else:
            yield (f"{row}\n" for row in plain)


def _gaps(record: RunRecord, log_row: int) -> list[int]:
    """The gaps between the tokens of the request in ``log_row``: one fewer than its tokens."""
    return np.diff(record.requests.token_times_ns(log_row)).tolist()


def _quoted(field: str) -> str:
    """A field as the csv module writes it, in quotes only where it needs them, and never a formula."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([plain_cell(field)])
    return line.getvalue()
