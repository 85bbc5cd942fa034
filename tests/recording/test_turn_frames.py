"""Tables of turns written chunk by chunk are those made at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from penstock.recording.records import TURN_COLUMNS, TurnChunk
from penstock.recording.turn_frames import ROWS_PER_GROUP, no_turns, stages_frame, steps_frame, write_turns


def _chunks(count: int, turns: int, pp_size: int) -> list[TurnChunk]:
    width = len(TURN_COLUMNS) + 3 * pp_size
    generator = np.random.Generator(np.random.PCG64(7))
    values = generator.integers(0, 4, (count, turns, width))
    return [TurnChunk(0, pp_size, number * turns, rows) for number, rows in enumerate(values)]


def test_files_hold_all_rows_in_order(tmp_path: Path):
    chunks = _chunks(40, 5_000, 2)
    for frame_of in (steps_frame, stages_frame):
        write_turns(tmp_path / "table.parquet", frame_of, lambda: iter(chunks))
        expected = pl.concat([frame_of(chunk) for chunk in chunks])
        assert len(expected) > ROWS_PER_GROUP
        assert pl.read_parquet(tmp_path / "table.parquet").equals(expected)


def test_same_turns_give_the_same_bytes(tmp_path: Path):
    chunks = _chunks(60, 5_000, 2)
    for name in ("one", "two"):
        write_turns(tmp_path / name, stages_frame, lambda: iter(chunks))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_run_without_turns_has_tables_without_rows(tmp_path: Path):
    write_turns(tmp_path / "steps.parquet", steps_frame, lambda: iter(()))
    written = pl.read_parquet(tmp_path / "steps.parquet")
    assert written.is_empty()
    assert written.schema == steps_frame(no_turns()).schema
