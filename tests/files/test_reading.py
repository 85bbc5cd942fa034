"""What a user gives is read within limits, and what is wrong with it is one sentence with its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from penstock.errors import UserError
from penstock.files import reading
from penstock.files.csv_text import measured, measured_above_zero
from penstock.files.frames import read_csv, read_parquet
from penstock.files.json_text import load_json, parse_json
from penstock.files.reading import read_text, text_lines
from penstock.files.yaml_text import load_yaml, parse_yaml


def problems(read: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        read()  # type: ignore[operator]
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "f:1:2: broken JSON"),
        ("[" * 70 + "]" * 70, "is nested more than 64 deep"),
        ("[" * 100_000, "is nested more than 64 deep"),
        ('{"a": 1, "a": 2}', "f: key 'a' stands here twice"),
        ('{"a": [{"b": 1, "b": 2}]}', "f: a[0]: key 'b' stands here twice"),
        ('{"\\ud800": 1}', "half a surrogate pair"),
        ('["x\\udfff"]', "f: [0]: 'x\\udfff' holds half a surrogate pair"),
        ("1" * 5000, "cannot be read as JSON"),
        ('{"a": NaN}', "f: a: must be a finite number, not nan"),
        ('{"a": [1, 2, -1e999]}', "f: a[2]: must be a finite number, not -inf"),
    ],
)
def test_json_that_is_refused(text: str, words: str) -> None:
    assert words in problems(lambda: parse_json(text, "f"))[0]


def test_what_other_programs_write_where_a_number_is_none() -> None:
    assert parse_json('{"mean": Infinity}', "f", finite=False) == {"mean": float("inf")}


@pytest.mark.parametrize("cell", ["nan", "inf", "-1", "", "x"])
def test_a_time_that_nobody_measured(cell: str) -> None:
    with pytest.raises(ValueError, match=r"no finite number|could not convert"):
        measured(cell)
    assert measured("0") == 0.0
    with pytest.raises(ValueError, match="not above 0"):
        measured_above_zero("0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "broken YAML"),
        ("a: 1\na: 2", "key 'a' stands here twice"),
        ("1: 2", "key 1 must be text"),
        ("a: [.nan]", "a[0]: must be a finite number, not nan"),
        ("null: 2", "key None must be text"),
        ("[a]: 2", "a key must be text"),
        ("a: !!python/object:os.system x", "is not taken: plain values only"),
        ("a: !own x", "'!own' is not taken"),
        ("a: !!binary aGk=", "plain values only"),
        ("a: !!set {b}", "plain values only"),
        ("[" * 100, "is nested more than 64 deep"),
        ("&a [*a]", "is nested more than 64 deep"),
        ('a: "\\ud800"', "half a surrogate pair"),
        ("a: *b", "undefined alias"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    assert words in problems(lambda: parse_yaml(text, "f"))[0]


def test_yaml_takes_dates_for_text_and_merges_keys() -> None:
    assert parse_yaml("a: 2026-01-01\nb: &x {c: 1}\nd: {<<: *x, e: 2}", "f") == {
        "a": "2026-01-01",
        "b": {"c": 1},
        "d": {"c": 1, "e": 2},
    }


def test_aliases_that_stand_for_more_than_memory_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "stands for more than" in problems(lambda: parse_yaml("\n".join(levels), "f"))[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"ab\xff")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8bnot really")
    for name, words in (
        ("nothing", "No such file"),
        (".", "Is a directory"),
        ("text", "is not UTF-8 text (byte 2)"),
        ("cut.gz", "cannot be read: "),
        ("broken.gz", "cannot be read: "),
    ):
        path = tmp_path / name
        (message,) = problems(lambda path=path: read_text(path))
        assert message.startswith(str(path))
        assert words in message


def test_a_small_file_of_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(reading, "MAX_BLANK_LINES", 1000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"x" * (2 << 20)))
    assert "holds more than 1 MiB" in problems(lambda: read_text(path, 1 << 20))[0]
    assert f"{path}:1: the line holds more than 1 MiB" in problems(lambda: list(text_lines(path)))[0]
    path.write_bytes(gzip.compress(b"{}\n" + b"\n" * 1002))
    assert "1,000 blank lines in a row" in problems(lambda: list(text_lines(path)))[0]


def test_byte_order_marks_and_packed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(gzip.compress('\ufeff{"a": 1}'.encode()))
    assert load_json(path) == {"a": 1}
    path.write_bytes("\ufeffa: 1".encode())
    assert load_yaml(path) == {"a": 1}


def test_tables_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"PAR1 and then nothing of the kind PAR1")
    assert "cannot be read as Parquet" in problems(lambda: read_parquet(path))[0]
    path.write_bytes(b"")
    assert "cannot be read as CSV" in problems(lambda: read_csv(path))[0]
    pl.DataFrame({"a": [1]}).write_parquet(path)
    assert read_parquet(path).to_dict(as_series=False) == {"a": [1]}
