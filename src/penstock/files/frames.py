"""Polars frames in and out, by the same ways as all files: Polars itself opens nothing."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.errors import Problem, UserError
from penstock.files.reading import read_bytes
from penstock.files.use import AnyPath
from penstock.files.writing import atomic_write_bytes

if TYPE_CHECKING:
    import polars as pl

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_parquet(path: str | Path, frame: pl.DataFrame) -> None:
    """Write a table.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write_bytes(path) as file:
        frame.write_parquet(file)


def write_csv(path: str | Path, frame: pl.DataFrame) -> None:
    """Write a table; no cell of text is one that a spreadsheet would calculate.

    Raises:
        UserError: the file cannot be written.
    """
    import polars as pl

    text = pl.col(pl.String)
    safe = frame.with_columns(
        pl.when(text.str.slice(0, 1).is_in(list(_FORMULA_STARTS)))
        .then("'" + text)
        .otherwise(text)
        .name.keep()
    )
    with atomic_write_bytes(path) as file:
        safe.write_csv(file)


def plain_cell(text: str) -> str:
    """Text that a spreadsheet takes for text: with ``'`` before what would begin a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def read_parquet(path: AnyPath) -> pl.DataFrame:
    """Read a table.

    Raises:
        UserError: the file cannot be read, or is no Parquet.
    """
    import polars as pl

    return _read(path, "Parquet", lambda data: pl.read_parquet(io.BytesIO(data)))


def read_csv(path: AnyPath) -> pl.DataFrame:
    """Read a table, the types of its columns from all rows.

    Raises:
        UserError: the file cannot be read, or is no CSV.
    """
    import polars as pl

    return _read(path, "CSV", lambda data: pl.read_csv(io.BytesIO(data), infer_schema_length=None))


def _read(path: AnyPath, kind: str, read: Callable[[bytes], pl.DataFrame]) -> pl.DataFrame:
    data = read_bytes(path)
    try:
        return read(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Polars derives from BaseException
        told = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError([Problem(str(path), f"cannot be read as {kind}: {told}")]) from None


def frames_written(
    path: str | Path, frames: Callable[[], Iterator[pl.DataFrame]], schema: pl.Schema, rows_per_group: int
) -> None:
    """Write a Parquet file of any length, holding a few frames at a time.

    Raises:
        UserError: the file cannot be written.
    """
    from polars.io.plugins import register_io_source

    def read(
        columns: list[str] | None, where: pl.Expr | None, rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        # The whole is written: no columns are chosen, no rows left out.
        del columns, where, rows, batch_size
        yield from frames()

    source = register_io_source(read, schema=schema)
    with atomic_write_bytes(path) as file:
        source.sink_parquet(file, row_group_size=rows_per_group, maintain_order=True)
