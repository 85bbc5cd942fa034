"""The cache gives back what was kept, and stays out of the way whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.files.cache import ENTRIES_MAX, keep_arrays, kept_arrays, key_of

ARRAYS = {"a": np.array([1.0, np.inf, -0.0]), "b": np.arange(6.0).reshape(2, 3), "none": np.zeros((0, 4))}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_arrays_come_back_bit_by_bit() -> None:
    assert kept_arrays("x") is None
    keep_arrays("x", ARRAYS)
    kept = kept_arrays("x")
    assert kept is not None
    assert list(kept) == list(ARRAYS)
    for name, values in ARRAYS.items():
        assert kept[name].shape == values.shape
        assert kept[name].tobytes() == values.tobytes()
        assert kept[name].flags.writeable


def test_a_file_that_was_cut_is_none(folder: Path) -> None:
    keep_arrays("x", ARRAYS)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for size in (0, 3, 40, len(whole) - 8, len(whole) - 3):
        path.write_bytes(whole[:size])
        assert kept_arrays("x") is None


def test_nothing_is_kept_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", "0")
    keep_arrays("x", ARRAYS)
    assert kept_arrays("x") is None
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_no_matter(folder: Path) -> None:
    folder.write_text("a file", encoding="utf-8")
    keep_arrays("x", ARRAYS)
    assert kept_arrays("x") is None


def test_the_oldest_go(folder: Path) -> None:
    for number in range(ENTRIES_MAX + 5):
        keep_arrays(str(number), {"a": np.zeros(1)})
    assert len(list(folder.iterdir())) == ENTRIES_MAX


def test_contents_are_told_apart_by_where_they_end() -> None:
    assert key_of([b"ab", b"c"]) != key_of([b"a", b"bc"])
