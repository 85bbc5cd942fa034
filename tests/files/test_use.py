"""No output may be an input or another output, whatever links lead there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.errors import UserError
from penstock.files.reading import read_text
from penstock.files.use import FileUse, noting_reads
from penstock.files.writing import atomic_write


def told(reads: dict[str, object], writes: dict[str, object]) -> list[str]:
    return [str(problem) for problem in FileUse(reads=reads, writes=writes).problems()]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["same", "symbolic", "hard", "through a linked directory", "dotted"])
def test_an_output_that_is_an_input(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "in" / "a.json"
    source.parent.mkdir()
    source.write_text("{}")
    output = tmp_path / "b.json"
    match kind:
        case "same":
            output = source
        case "symbolic":
            output.symlink_to(source)
        case "hard":
            os.link(source, output)
        case "dotted":
            output = tmp_path / "in" / ".." / "in" / "a.json"
        case _:
            (tmp_path / "other").symlink_to(tmp_path / "in")
            output = tmp_path / "other" / "a.json"
    assert told({"--dataset": source}, {"--output": output}) == [
        f"--output: {output} cannot be written: an input of this run (--dataset)"
    ]


def test_two_outputs_in_one_place_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    writes = {"--output": tmp_path / "real" / "new" / "x", "--report": tmp_path / "link" / "new" / "x"}
    (message,) = told({}, dict(writes))
    assert message.endswith("cannot be written: --output writes there too")


def test_devices_may_be_written_twice() -> None:
    assert told({}, {"--output": "/dev/null", "--report": "/dev/null"}) == []


def test_what_is_read_besides_is_known_too(tmp_path: Path) -> None:
    model = tmp_path / "model.json"
    model.write_text("{}")
    files = FileUse(reads={}, writes={"--output": model})
    with noting_reads():
        files.check()
        read_text(model)
        with pytest.raises(UserError, match="an input of this run"):
            files.check()
        with pytest.raises(UserError, match="an input of this run"), atomic_write(model) as file:
            file.write("lost")
    assert model.read_text() == "{}"


def test_a_file_that_is_read_while_it_is_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("kept")
    with noting_reads(), pytest.raises(UserError, match="an input of this run"), atomic_write(path) as file:
        file.write(read_text(path).upper())
    assert path.read_text() == "kept"
    assert [one.name for one in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "must not be empty"),
        ("a\0b", "null byte"),
        (os.fsdecode(b"\xff.csv"), "not UTF-8"),
        ("~/x.csv", "the shell has not expanded '~'"),
        ("~nobody-at-all/x.csv", "the shell has not expanded '~nobody-at-all'"),
        ("x" * 300, "name too long"),
    ],
)
def test_names_that_are_refused_before_the_run(name: str, words: str) -> None:
    (message,) = told({}, {"--output": name})
    assert words in message.lower() or words in message
