"""Run one matrix of simulations with two checkouts and compare everything that they write, byte by byte.

    python tools/compare_checkouts.py ../base .
    python tools/compare_checkouts.py ../base . --only 'async-*' --only 'preemption-*' --jobs 2
    python tools/compare_checkouts.py ../base . --list

Each checkout is run by the Python of its own ``.venv``, or by the one named behind a comma (``PATH,PYTHON``). What
cannot be equal is left out: the line ``wall time``, progress on stderr, and the versions in ``summary.json``. Of a
report the data are compared, not the page around them. Members that only the second checkout has in its JSON are named
but do no harm, as a new option is echoed there; ``--strict`` counts them. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from comparison.matrix import Case, Matrix
from comparison.workloads import write_workloads

HERE = Path(__file__).resolve().parent
_WALL_TIME = re.compile(rb"(?m)^wall time .*\n")
_PROGRESS = re.compile(rb"(?m)^.*%: .* x real time\)\n?")
_REPORT_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Checkout:
    """Sources, and the Python that runs them."""

    root: Path
    python: Path

    @classmethod
    def parse(cls, text: str) -> Checkout:
        """``PATH`` or ``PATH,PYTHON``."""
        root, _, python = text.partition(",")
        path = Path(root).resolve()
        found = Path(python) if python else path / ".venv" / "bin" / "python"
        if not (path / "src" / "penstock").is_dir():
            raise SystemExit(f"{root} is not a checkout: it has no src/penstock")
        if not found.exists():
            raise SystemExit(f"{found} is not there: make a .venv, or name a Python as PATH,PYTHON")
        return cls(path, found)

    def start(self) -> subprocess.Popen[str]:
        """A worker that runs cases with it."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "POLARS_MAX_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            "NO_COLOR": "1",
        }
        return subprocess.Popen(
            [str(self.python), str(HERE / "comparison" / "worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.root,
        )


@dataclass(slots=True)
class Difference:
    """A file of a case that is not the same."""

    case: str
    file: str
    how: str


@dataclass(slots=True)
class Outcome:
    """What the comparison found so far."""

    differences: list[Difference] = field(default_factory=list[Difference])
    extra_members: dict[str, None] = field(default_factory=dict[str, None])
    files: int = 0
    compared_bytes: int = 0


def main() -> None:
    """Parse, run, compare, print."""
    options = _arguments()
    first, second = Checkout.parse(options.first), Checkout.parse(options.second)
    work = Path(tempfile.mkdtemp(prefix="compare-checkouts-"))
    try:
        shared = Path(options.shared).resolve()
        matrix = Matrix(
            work / "inputs", write_workloads(work / "workloads"), shared if shared.is_dir() else None
        )
        cases = [case for case in matrix.cases() if _wanted(case.name, options.only)]
        if options.list:
            print("\n".join(case.name for case in cases))
            return
        if not cases:
            raise SystemExit("no case has such a name; --list shows them")
        started = time.monotonic()
        outcome = Outcome()
        _run_all(cases, (first, second), work, max(1, options.jobs), outcome, strict=options.strict)
        _show(outcome, len(cases), time.monotonic() - started)
    finally:
        if options.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    raise SystemExit(1 if outcome.differences else 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", help="checkout that says what is right: PATH or PATH,PYTHON")
    parser.add_argument("second", help="checkout that is compared with it")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="cases by name, with * and ?")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    parser.add_argument("--strict", action="store_true", help="members that only the second has count")
    parser.add_argument("--keep", action="store_true", help="leave all files, and say where")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument(
        "--shared", default=str(HERE.parent.parent / "shared"), help="measured data; its cases need it"
    )
    return parser.parse_args()


def _wanted(name: str, patterns: list[str] | None) -> bool:
    return not patterns or any(fnmatch(name, pattern) for pattern in patterns)


def _run_all(
    cases: list[Case],
    checkouts: tuple[Checkout, Checkout],
    work: Path,
    jobs: int,
    outcome: Outcome,
    *,
    strict: bool,
) -> None:
    """Each thread has a worker per checkout and takes case after case."""
    todo: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        todo.put(case)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work_off() -> None:
        workers = [checkout.start() for checkout in checkouts]
        try:
            while not failures:
                case = todo.get_nowait()
                places = _serve(case, workers, work)
                with lock:
                    _compare(case, places, outcome, strict=strict)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            for worker in workers:
                worker.communicate()

    threads = [threading.Thread(target=work_off) for _ in range(min(jobs, len(cases)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _serve(case: Case, workers: list[subprocess.Popen[str]], work: Path) -> list[Path]:
    """Run a case with each worker; returns the directories."""
    places: list[Path] = []
    for number, worker in enumerate(workers):
        place = work / f"runs-{number}" / case.name
        place.mkdir(parents=True)
        places.append(place)
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps({"directory": str(place), "commands": case.commands}) + "\n")
        worker.stdin.flush()
        if not worker.stdout.readline():
            raise SystemExit(f"the worker of checkout {number + 1} ended in case {case.name}")
    return places


def _compare(case: Case, places: list[Path], outcome: Outcome, *, strict: bool) -> None:
    names = [
        {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} for place in places
    ]
    for name in sorted(names[0] | names[1]):
        outcome.files += 1
        if name not in names[0] or name not in names[1]:
            which = "first" if name in names[0] else "second"
            outcome.differences.append(Difference(case.name, name, f"only the {which} wrote it"))
            continue
        first, second = (_content(place / name) for place in places)
        outcome.compared_bytes += len(first)
        if first == second:
            continue
        if name.endswith((".html", ".json")) and not strict:
            extra = _only_new_members(first, second)
            if extra is not None:
                outcome.extra_members.update(dict.fromkeys(extra))
                continue
        outcome.differences.append(Difference(case.name, name, _how(first, second)))


def _content(path: Path) -> bytes:
    """What of a file has to be equal."""
    data = path.read_bytes()
    if path.suffix == ".stdout":
        return _WALL_TIME.sub(b"", data)
    if path.suffix == ".stderr":
        return _PROGRESS.sub(b"", data)  # of a run that takes more than some seconds
    if path.name == "summary.json":
        document = json.loads(data)
        document.pop("versions", None)
        return json.dumps(document, indent=2).encode()
    if path.suffix == ".html":
        found = _REPORT_DATA.search(data.decode())
        return data if found is None else json.dumps(json.loads(found[1]), indent=2).encode()
    return data


def _only_new_members(first: bytes, second: bytes) -> list[str] | None:
    """The members that JSON documents differ by, if the second only has more of them; else None."""
    try:
        return list(_new_members(json.loads(first), json.loads(second), ""))
    except ValueError:
        return None


def _new_members(first: Any, second: Any, path: str) -> Iterator[str]:
    """Paths of the members of ``second`` that ``first`` lacks.

    Raises:
        ValueError: anything else differs.
    """
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() <= second.keys():
        if [key for key in second if key in first] != list(first):
            raise ValueError(path)
        for key, value in second.items():
            if key in first:
                yield from _new_members(first[key], value, f"{path}.{key}")
            else:
                yield f"{path}.{key}".removeprefix(".")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for one, other in zip(first, second, strict=True):
            yield from _new_members(one, other, f"{path}[]")
    elif first != second or type(first) is not type(second):
        raise ValueError(path)


def _how(first: bytes, second: bytes) -> str:
    """The first line that differs, of text; the lengths of anything else."""
    try:
        pair = first.decode().splitlines(), second.decode().splitlines()
    except UnicodeDecodeError:
        return f"{len(first):,} and {len(second):,} bytes"
    for number, (one, other) in enumerate(zip(*pair, strict=False), start=1):
        if one != other:
            start = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
            start = max(0, start - 20)
            return f"line {number}: {one[start : start + 50]!r} | {other[start : start + 50]!r}"
    shorter, longer = sorted(pair, key=len)
    more = longer[len(shorter)] if len(longer) > len(shorter) else ""
    return f"{len(pair[0]):,} and {len(pair[1]):,} lines, more: {more[:80]!r}"


def _show(outcome: Outcome, cases: int, seconds: float) -> None:
    found = sorted(outcome.differences, key=lambda one: (one.case, one.file))
    for one in found:
        print(f"{one.case:<28} {one.file:<28} {one.how}")
    for name in outcome.extra_members:
        print(f"only the second has the member {name}")
    differing = len({one.case for one in found})
    verdict = (
        f"{differing} of {cases} cases differ, in {len(found)} files" if found else f"{cases} cases equal"
    )
    size = outcome.compared_bytes / 2**20
    print(f"{verdict}; {outcome.files:,} files, {size:,.1f} MiB compared in {seconds:.0f} s")


if __name__ == "__main__":
    main()
