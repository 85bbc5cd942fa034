"""What no mutation makes: every option of every command with values that are none, and every file of every kind as
something that is no such file.

    PYTHONPATH=tests python -m fuzz.hostile                    # all of them; some minutes
    PYTHONPATH=tests python -m fuzz.hostile --only run,study   # of kinds and commands with these names

Systematic where :mod:`fuzz.mutations` is random; a defect is what is one there.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shlex
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer.main

from fuzz.inputs import RUN, kinds
from fuzz.kind import Kind, lines
from fuzz.mutations import MEMORY_BYTES, defect_in
from fuzz.workloads import FLAT
from penstock.cli.main import app
from penstock.files import pipes

NUMBERS = (
    "nan", "inf", "-inf", "-1", "0", "-0.0", "1e308", "1e999", "1e-320", "1" * 400, "0x10", "1_0", "１", "", " ", "1 ",
    "true", "None", "1e3", "9223372036854775808", "-9223372036854775809",
)  # fmt: skip
WORDS = (
    "\ud800", "\udcff", "é", "~", "~nobody/x", "/dev/full", "/dev/null", "/", ".", "..", "c.json", "loop", "pipe",
    "folder", "hollow", "x" * 5000, "[" * 3000, "a=b=c", "=", ",", ":", "::", "builtins:int", "os:system", "module:",
    ":Class", "vllm(1)", "a/../../b", "\n", "\x1b[31m", "%s%n", "{0}", "--", "-", "<script>", "1:2:3", "x=nan",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    1e308,
    float("nan"),
    "",
    "x",
    "1",
    [],
    {},
    [{}],
    {"a": []},
)


def as_utf16(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


def with_keys_twice(data: bytes) -> bytes:
    """Each first key of an object once more, before itself."""
    return data.replace(b"{", b'{"a": 1, "a": 2, ', 1)


def in_arrays(data: bytes) -> bytes:
    return b"[" * 500 + data + b"]" * 500


CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "white space": lambda _: b" \n\t\n",
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "two byte order marks": lambda data: b"\xef\xbb\xbf" * 2 + data,
    "carriage returns": lambda data: data.replace(b"\n", b"\r\n"),
    "only carriage returns": lambda data: data.replace(b"\n", b"\r"),
    "UTF-16": as_utf16,
    "NUL bytes": lambda data: data + b"\0" * 100,
    "packed": gzip.compress,
    "packed and cut": lambda data: gzip.compress(data)[:-9],
    "packed thrice": lambda data: gzip.compress(gzip.compress(gzip.compress(data))),
    "said twice": lambda data: data + data,
    "no line end": lambda data: data.rstrip(b"\n"),
    "keys twice": with_keys_twice,
    "in arrays": in_arrays,
    "null": lambda _: b"null",
    "a number": lambda _: b"1e999",
    "a text": lambda _: b'"x"',
    "a list": lambda _: b"[]",
    "an object": lambda _: b"{}",
    "a table's header": lambda data: data.split(b"\n")[0] + b"\n",
    "line separators": lambda data: data.replace(b"\n", "\u2028\n".encode()),
    "Parquet's beginning": lambda _: b"PAR1" * 3,
    "quotes": lambda data: data.replace(b",", b',"', 1),
}


def remove(path: Path) -> None:
    path.unlink()


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_link(target: str) -> Callable[[Path], None]:
    def place(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return place


PLACES: dict[str, Callable[[Path], None]] = {
    "not there": remove,
    "folder": as_folder,
    "pipe": as_pipe,
    "loop": lambda path: as_link(path.name)(path),
    "link to nowhere": as_link("/nonexistent/x"),
    "/dev/full": as_link("/dev/full"),
    "/dev/zero": as_link("/dev/zero"),
    "/dev/null": as_link("/dev/null"),
}


def prepare(directory: Path) -> None:
    """What :data:`WORDS` name besides."""
    (directory / "loop").symlink_to("loop")
    os.mkfifo(directory / "pipe")
    (directory / "folder").mkdir()
    (directory / "hollow").touch()


Case = tuple[str, Kind, list[str], dict[str, bytes], Callable[[Path], None]]


def nothing(_: Path) -> None:
    """Files as they are."""


def at(name: str, change: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda directory: change(directory / name)


def of_files() -> Iterator[Case]:
    """Each file of each kind as something else, and each member of a document as each type."""
    for kind in kinds():
        words = shlex.split(kind.line)
        for name in kind.mutated:
            data = kind.files[name]
            for what, content in CONTENTS.items():
                changed = {**kind.files, name: content(data)}
                yield f"{kind.name}: {name} is {what}", kind, words, changed, nothing
            for what, place in PLACES.items():
                yield f"{kind.name}: {name} is {what}", kind, words, dict(kind.files), at(name, place)
            for path, value, changed in of_types(name, data):
                files = {**kind.files, name: changed}
                yield f"{kind.name}: {name}{path} is {value!r}", kind, words, files, nothing


def of_types(name: str, data: bytes) -> Iterator[tuple[str, Any, bytes]]:
    """Every member of a document, of the first line of lines, with every type."""
    if name.endswith(".gz"):
        for path, value, changed in of_types(name.removesuffix(".gz"), gzip.decompress(data)):
            yield path, value, gzip.compress(changed)
        return
    first, end, rest = data.partition(b"\n") if "jsonl" in name else (data, b"", b"")
    try:
        value = json.loads(first)
    except ValueError:
        return
    seen: set[str] = set()
    for path in places(value):
        shape = "".join(f".{step}" if isinstance(step, str) else "[]" for step in path)
        if shape in seen or not path:
            continue
        seen.add(shape)
        for other in VALUES:
            changed = json.loads(first)
            inner = changed
            for step in path[:-1]:
                inner = inner[step]
            inner[path[-1]] = other
            yield shape, other, json.dumps(changed).encode() + end + rest


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield from places(member, (*path, key))


def commands() -> Iterator[tuple[list[str], Any]]:
    """All commands that are no groups, with their words."""

    def below(words: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
        if not hasattr(command, "list_commands"):
            yield words, command
            return
        for name in command.list_commands(None):
            yield from below([*words, name], command.get_command(None, name))

    yield from below([], typer.main.get_command(app))


FURTHER = (
    "demo", "init n", "models", "hardware",
    "workload generate -n 3 --preset sharegpt -o o.jsonl",
    "workload convert w.jsonl -o o.jsonl",
    "serve c.json --port 0",
    RUN,
    "export llmservingsim c.json --dataset w.jsonl --output et",
    "profile run --model m -o q",
)  # fmt: skip
"""Command lines for those that no kind has."""


def of_options() -> Iterator[Case]:
    """Every option and argument of every command with every value that is none."""
    base = kinds()[0]
    lines_of = {kind.name: kind for kind in kinds()}
    for words, command in commands():
        found = [kind for kind in lines_of.values() if shlex.split(kind.line)[: len(words)] == words]
        own = [line for line in FURTHER if shlex.split(line)[: len(words)] == words]
        if found:
            kind, line = found[0], shlex.split(found[0].line)
        else:
            kind = Kind(" ".join(words), own[0] if own else " ".join(words), base.files, ())
            line = shlex.split(kind.line)
        kind = Kind(" ".join(words), kind.line, {"w.jsonl": lines(FLAT), **kind.files}, (), kind.differs)
        for parameter in command.params:
            if parameter.name in ("help", "install_completion", "show_completion"):
                continue
            for value in (*NUMBERS, *WORDS):
                if parameter.param_type_name == "argument":
                    changed = [*words, value, *line[len(words) + 1 :]]
                elif getattr(parameter, "is_flag", False):
                    changed = [*line, parameter.opts[0]] if value == "nan" else []
                else:
                    option = max(parameter.opts, key=len)
                    changed = [*line, f"{option}={value}"] if option[:2] == "--" else [*line, option, value]
                if changed:
                    own = replace(kind, line=shlex.join([*changed, value]))
                    yield (
                        f"{kind.name} {parameter.name}={value[:40]!r}",
                        own,
                        changed,
                        dict(kind.files),
                        prepare,
                    )


def run(names: list[str], part: tuple[int, int]) -> tuple[int, dict[str, str]]:
    """The cases whose name begins with one of ``names``, all if there are none; of these every n-th from the i-th."""
    pipes.PATIENCE_S = 0.05
    defects: dict[str, str] = {}
    count = 0
    for cases in (of_options(), of_files()):
        for name, kind, words, files, place in cases:
            if names and not name.startswith(tuple(names)):
                continue
            count += 1
            if count % part[1] != part[0]:
                continue
            above = Path(tempfile.mkdtemp(prefix="hostile-"))
            try:
                (above / "in").mkdir()
                defect = defect_in(above / "in", kind, words, files, place)
            finally:
                shutil.rmtree(above, ignore_errors=True)
            if defect is not None:
                defects[name] = defect
                print(f"--- {name}\n{defect}", flush=True)
    return count // part[1], defects


def command() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--part", default="0/1", help="every n-th case from the i-th: i/n")
    given = parser.parse_args()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    first, _, of = given.part.partition("/")
    count, defects = run([name for name in given.only.split(",") if name], (int(first), int(of)))
    print(f"{count} hostile inputs: {len(defects)} defects")
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    command()
