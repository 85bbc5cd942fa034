"""Ways of compiling the inner loop, measured: ``python benchmarks/native/measure.py``.

It needs a C compiler, ``pip install mypy cython setuptools``, and ``rustc`` for the row of Rust; what is absent is
left out. Every build must end at the same nanosecond.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TURNS = 100_000
TIMED = f"""
import time, turns
best, end = 1e9, 0
for _ in range(5):
    engine = turns.Engine()
    begin = time.process_time()
    end = engine.run({TURNS})
    best = min(best, time.process_time() - begin)
print(end, best * 1e9 / {TURNS})
"""


def with_native_ints(source: str) -> str:
    """The loop with mypyc's 64-bit integers where it has plain ones."""
    source = source.replace("STAGES = 4", "from mypy_extensions import i64\n\nSTAGES: i64 = 4")
    for attribute in (
        "self.size",
        "self.offset_sum",
        "self.turn",
        "self.last_ns",
        "self.done_ns",
        "self.free",
    ):
        source = source.replace(f"{attribute} = ", f"{attribute}: i64 = ", 1)
    source = source.replace("size: int, context: int", "size: i64, context: i64")
    source = source.replace("turns: int) -> int", "turns: i64) -> i64")
    for name in (
        "now = 0",
        "at = cohort.done_ns",
        "size = cohort.size",
        "context = cohort",
        "attention = 2_000",
    ):
        left, equals, right = name.partition(" = ")
        source = source.replace(f"            {name}", f"            {left}: i64{equals}{right}", 1)
    return source.replace("        now = 0\n", "        now: i64 = 0\n", 1)


def _timed(folder: Path, command: list[str]) -> tuple[int, float]:
    out = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.split()
    return int(out[0]), float(out[1])


def _python(folder: Path) -> tuple[int, float]:
    return _timed(folder, [sys.executable, "-c", TIMED])


def measure() -> dict[str, tuple[int, float]]:
    """(end, nanoseconds a turn) by way of building."""
    source = (HERE / "turns.py").read_text(encoding="utf-8")
    found: dict[str, tuple[int, float]] = {"plain Python": _python(HERE)}
    builds = {
        "mypyc": source,
        "mypyc, native integers": with_native_ints(source),
        "Cython, pure mode": source,
    }
    for name, text in builds.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            (folder / "turns.py").write_text(text, encoding="utf-8")
            command = [sys.executable, "-m", "mypyc", "turns.py"]
            if name.startswith("Cython"):
                shutil.copy(HERE / "turns.pxd", folder)
                command = [sys.executable, "-m", "Cython.Build.Cythonize", "-3"]
                command += ["-X", "annotation_typing=False", "-i", "turns.py"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}: left out, {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            found[name] = _python(folder)
    rustc = shutil.which("rustc")
    if rustc:
        with tempfile.TemporaryDirectory() as temporary:
            binary = Path(temporary) / "turns"
            subprocess.run([rustc, "-O", "-o", str(binary), str(HERE / "turns.rs")], check=True)
            found["Rust"] = _timed(HERE, [str(binary), str(TURNS)])
    return found


def main() -> None:
    """Print the table of the documentation."""
    found = measure()
    ends = {end for end, _ in found.values()}
    if len(ends) > 1:
        raise SystemExit(f"the builds disagree: {found}")
    print("| build | ns a turn | times plain Python |\n| --- | ---: | ---: |")
    plain = found["plain Python"][1]
    for name, (_, nanoseconds) in found.items():
        print(f"| {name} | {nanoseconds:,.0f} | {plain / nanoseconds:.1f} |")


if __name__ == "__main__":
    main()
