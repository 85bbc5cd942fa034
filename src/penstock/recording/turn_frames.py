"""Turns as Polars frames, a chunk at a time, and as Parquet files of any length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from penstock.files.frames import frames_written
from penstock.recording.records import TURN_COLUMNS, Cause, TurnChunk

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_GROUP = 1 << 17


def write_turns(
    path: Path, frame_of: Callable[[TurnChunk], pl.DataFrame], turns: Callable[[], Iterator[TurnChunk]]
) -> None:
    """Write ``frame_of`` every chunk as one Parquet file, holding a few chunks at a time.

    Raises:
        UserError: the file cannot be written.
    """
    schema = frame_of(no_turns()).schema
    frames_written(path, lambda: map(frame_of, turns()), schema, ROWS_PER_GROUP)


def no_turns() -> TurnChunk:
    """A chunk without a turn."""
    return TurnChunk(0, 1, 0, np.zeros((0, len(TURN_COLUMNS) + 3), dtype=np.int64))


def _visits_stages(chunk: TurnChunk) -> npt.NDArray[np.bool_]:
    """Steps with tokens; where the stages' times are kept, dummy batches are known by them."""
    has_tokens = chunk.column("tokens") > 0
    if chunk.values.shape[1] == len(TURN_COLUMNS):
        return has_tokens
    return has_tokens | (chunk.stage(0, "end") > chunk.stage(0, "start"))


def steps_frame(chunk: TurnChunk) -> pl.DataFrame:
    """Steps with tokens of a chunk and, where the stages' times are kept, dummy batches of data-parallel ranks, which
    have none."""
    import polars as pl

    visits = _visits_stages(chunk)
    rows = chunk.values[visits]
    turn = chunk.first_turn + np.flatnonzero(visits)
    columns = {name: rows[:, place] for place, name in enumerate(TURN_COLUMNS)}
    causes = {cause.value: cause.name.lower() for cause in Cause}
    by_name = pl.col("cause_after").replace_strict(causes, return_dtype=pl.Enum(list(causes.values())))
    return pl.DataFrame(
        {"instance": np.full(len(rows), chunk.instance, dtype=np.int64), "turn": turn} | columns
    ).with_columns(by_name)


def stages_frame(chunk: TurnChunk) -> pl.DataFrame:
    """Steps with tokens of a chunk and dummy batches, stage by stage of each."""
    import polars as pl

    visits = _visits_stages(chunk)
    pp_size = chunk.pp_size
    times = chunk.values[visits, len(TURN_COLUMNS) :].reshape(-1, 3)
    turn = chunk.first_turn + np.flatnonzero(visits)
    return pl.DataFrame(
        {
            "instance": np.full(len(times), chunk.instance, dtype=np.int64),
            "turn": np.repeat(turn, pp_size),
            "stage": np.tile(np.arange(pp_size, dtype=np.int64), len(turn)),
            "arrive_ns": times[:, 0],
            "start_ns": times[:, 1],
            "end_ns": times[:, 2],
        }
    )
