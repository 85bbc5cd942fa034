"""Seeded mutations of every kind of input, run through the command line in this process.

    PYTHONPATH=tests python -m fuzz.mutations 20000          # seeds 0 to 19999
    PYTHONPATH=tests python -m fuzz.mutations 1 --from 4711  # one of them, again

Anything but exit code 0, or 2 with a message and nothing left behind, is a defect: an exception that reaches the top,
a warning of a library,
an output that is half or over an input, a run that does not end within a minute, memory without end. A comparison may
also end with 1, a difference; so may a simulation that cannot go on.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from fuzz.inputs import OPTIONS, kinds
from fuzz.kind import Kind, lost_line, state, write
from penstock.cli.main import main

SECONDS = 60
"""Of processor time: machines that run tests are shared."""

MEMORY_BYTES = 6 << 30

EVIL: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, 10**6, 10**12, 10**20, 10**400, -(10**20), 1e308, float("nan"), float("inf"),
    -0.0, "", "a", "\0", "\ud800", "é", "=1+1", "</script>", "~nobody/x", "../..", "x" * 5000, "1" * 400, [], {}, [[]],
    [1, 2, 3], ["a"], {"a": 1}, [None], {"": None}, "builtins:int", "os:system", "auto", "vllm(1)", "inf", "nan",
)  # fmt: skip
TEXT: tuple[bytes, ...] = (
    b"\xff", b"\0", b'"', b"'", b"\n", b"\r", b",", b"nan", b"inf", b"-1", b"1e999", b"99999999999999999999",
    b"[" * 2000,
    b"{" * 70, b"\\ud800", b"!!python/object:os.system ", b"&a [*a]", b"? ", b"\xef\xbb\xbf", b"\n" * 500, b"=cmd|x",
    b"\xed\xa0\x80", b"0001-01-01 00:00:00", b"9999-12-31 23:59:59", b"null", b"1: 2\n", b"\x1f\x8b",
)  # fmt: skip
WORDS = (
    "", "nan", "inf", "-inf", "-1", "0", "1e308", "1e999", "99999999999999999999", "x" * 3000, "[" * 3000,
    "\ud800", "é", "~",
    "~nobody/x", "/dev/full", "/", ".", "c.json", "w.jsonl", "/nonexistent/a/b", "builtins:int", "os:system", "vllm(1)",
    "a=b=c", "LOAD", "--help", "1:2:3", ",", ";", "fixed:nan", "uniform:5,1", "lognormal:1e308,1e308",
    "zipf:1,10000000",
    "x=[" + "[" * 3000, "0:inf", "-1e-300", "1_000", "１", "true",
)  # fmt: skip


class Hang(BaseException):
    """A case that does not end."""


def mutated(kind: Kind, random_: random.Random) -> dict[str, bytes]:
    """The files of a case, one or two of them changed once or twice."""
    files = dict(kind.files)
    for _ in range(random_.choice((1, 1, 2))):
        name = random_.choice(kind.mutated)
        packed = files[name][:2] == b"\x1f\x8b"
        inside = packed and random_.random() < 0.8
        data = gzip.decompress(files[name]) if inside and kind.files[name] == files[name] else files[name]
        if data[:2] == b"\x1f\x8b":
            inside = False
        data = _structural(name, data, random_) if random_.random() < 0.6 else _textual(data, random_)
        files[name] = gzip.compress(data) if inside else data
    return files


def _textual(data: bytes, random_: random.Random) -> bytes:
    at = random_.randrange(len(data) + 1)
    end = min(len(data), at + random_.choice((1, 1, 3, 20, 200)))
    what = random_.randrange(6)
    if what == 0:
        return data[:at]
    if what == 1:
        return data[:at] + data[end:]
    if what == 2:
        return data[:end] + data[at:]
    if what == 3:
        return data[:at] + bytes([random_.randrange(256)]) + data[at + 1 :]
    return data[:at] + random_.choice(TEXT) + (data[end:] if what == 4 else data[at:])


def _structural(name: str, data: bytes, random_: random.Random) -> bytes:
    """One value of a document changed; lines are documents of their own."""
    try:
        if name.endswith(".yaml"):
            return yaml.safe_dump(_changed(yaml.safe_load(data), random_), allow_unicode=True).encode(
                "utf-8", "surrogatepass"
            )
        if "jsonl" in name or name.endswith(".gz"):
            lines = data.split(b"\n")
            place = random_.randrange(len(lines))
            lines[place] = json.dumps(_changed(json.loads(lines[place]), random_)).encode()
            return b"\n".join(lines)
        return json.dumps(_changed(json.loads(data), random_)).encode()
    except (ValueError, yaml.YAMLError, UnicodeError, RecursionError):
        cells = data.split(b",")
        place = random_.randrange(len(cells))
        cells[place] = random_.choice(TEXT)
        return b",".join(cells)


def _changed(value: Any, random_: random.Random) -> Any:
    places = list(_places(value, ()))
    path = random_.choice(places)
    if not path:
        return random_.choice(EVIL)
    inner = value
    for step in path[:-1]:
        inner = inner[step]
    last, what = path[-1], random_.randrange(8)
    if what == 0:
        del inner[last]
    elif what == 1 and isinstance(inner, dict):
        inner[random_.choice(("", "x", "\ud800", str(last) + "s"))] = inner.pop(last)
    elif what == 2 and isinstance(inner, list):
        inner.append(inner[last])
    elif what == 3:
        inner[last] = [inner[last]]
    else:
        inner[last] = random_.choice(EVIL)
    return value


def _places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        yield from _places(member, (*path, key))


def case(seed: int) -> tuple[Kind, list[str], dict[str, bytes]]:
    """What a seed stands for: its kind, its command line and its files."""
    random_ = random.Random(seed)
    if random_.random() < 0.25:
        words = shlex.split(random_.choice(OPTIONS))
        for _ in range(random_.choice((1, 1, 2))):
            words[random_.randrange(2, len(words))] = random_.choice(WORDS)
        base = kinds()[0]
        return Kind("options", " ".join(words), base.files, ()), words, dict(base.files)
    kind = random_.choice(kinds())
    return kind, shlex.split(kind.line), mutated(kind, random_)


def defect_of(seed: int, directory: Path) -> str | None:
    """Run a case in an empty directory; what is wrong with what came of it, or None."""
    kind, words, files = case(seed)
    return defect_in(directory, kind, words, files)


def defect_in(
    directory: Path,
    kind: Kind,
    words: list[str],
    files: dict[str, bytes],
    prepare: Callable[[Path], None] | None = None,
) -> str | None:
    """Run a command line in an empty directory, once the files are there and ``prepare`` has changed them."""
    write(files, directory)
    if prepare is not None:
        prepare(directory)
    before = state(directory)
    out, err = io.StringIO(), io.StringIO()
    code: object = "none"

    def hang(*_: object) -> None:
        raise Hang

    handler = signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            called(words, directory)
    except SystemExit as end:
        code = end.code or 0
    except Hang:
        return f"{kind.name}: no end after {SECONDS} s"
    except BaseException:
        return f"{kind.name}: {traceback.format_exc(limit=-3)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, handler)
    return judged(kind, code, err.getvalue(), before, state(directory))


def called(words: list[str], directory: Path) -> None:
    """The command line, in a directory; a server that would begin to serve is content with that."""
    with (
        contextlib.chdir(directory),
        mock.patch("penstock.server.serve.run", lambda _, ready: ready()),
    ):
        main(words)


def judged(
    kind: Kind, code: object, err: str, before: dict[str, bytes], after: dict[str, bytes]
) -> str | None:
    new, before = sorted(set(after) - set(before)), dict(before)
    if kind.line.startswith(
        "workload generate "
    ):  # it reads none of the files: its output may replace one of them
        before = {name: data for name, data in before.items() if name not in shlex.split(kind.line)}
    if kind.goes_on_in in before and lost_line(before.pop(kind.goes_on_in), after, kind.goes_on_in):
        return f"{kind.name}: a line of {kind.goes_on_in} was lost"
    if any(after.get(name) != data for name, data in before.items()):
        return f"{kind.name}: an input was changed"
    if any(".tmp" in name for name in new):
        return f"{kind.name}: left {new}"
    if code == 0:
        return None
    cannot_go_on = code == 1 and (kind.differs or "error: " in err)
    if code != 2 and not cannot_go_on:
        return f"{kind.name}: exit code {code}: {err[-300:]}"
    if not err.strip() and code == 2:
        return f"{kind.name}: exit code 2 without a message"
    if "Traceback" in err:
        return f"{kind.name}: a traceback: {err[-500:]}"
    if any(len(line) > 2000 for line in err.splitlines() if line.startswith("error: ")):
        return f"{kind.name}: a message of {max(map(len, err.splitlines()))} characters"
    kept = [name for name in new if not name.startswith("r/results.jsonl")]
    return f"{kind.name}: exit code {code}, but left {kept}" if kept and code == 2 else None


def run(first: int, count: int, seconds: float = 1e9) -> tuple[int, dict[int, str], Counter[str]]:
    """Cases from ``first`` on, at most so many or so long: how many, the defects by seed, and how many of each kind."""
    defects: dict[int, str] = {}
    seen: Counter[str] = Counter()
    started = time.monotonic()
    seed = first
    for seed in range(first, first + count):
        if time.monotonic() - started > seconds:
            return seed - first, defects, seen
        seen[case(seed)[0].name] += 1
        directory = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            defect = defect_of(seed, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        if defect is not None:
            defects[seed] = defect
    return count, defects, seen


def command() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9)
    given = parser.parse_args()
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    count, defects, seen = run(given.first, given.count, given.seconds)
    for seed, text in defects.items():
        print(f"--- seed {seed}\n{text}")
    print(
        f"{count} mutations ({', '.join(f'{n} {name}' for name, n in sorted(seen.items()))}): {len(defects)} defects"
    )
    sys.exit(1 if defects else 0)


if __name__ == "__main__":
    command()
