"""From nothing to the first picture: build the wheel, install it into an empty folder, run ``penstock demo``.

    python tools/first_picture.py

Prints the seconds of each step, CPU time of all its processes and wall time, and fails if there is no report. Packages
come from the index or from pip's cache, whichever is there; ``--no-cache`` downloads all of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Steps:
    """Runs commands and tells how long each took."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.wall_s = 0.0

    def run(self, name: str, *command: str, counts: bool = True) -> None:
        """One step; ``counts`` towards the time to the first picture.

        Raises:
            CalledProcessError: it failed; what it said was printed.
        """
        before, begin = os.times(), time.perf_counter()
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, env=_environment())
        after, wall_s = os.times(), time.perf_counter() - begin
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
            done.check_returncode()
        cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
        self.wall_s += wall_s if counts else 0.0
        print(f"{name:<34} {cpu_s:6.1f} s CPU {wall_s:6.1f} s", flush=True)


def _environment() -> dict[str, str]:
    """Like a user's: bytecode is written, nothing of this checkout is on the path."""
    hidden = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-cache", action="store_true", help="download every package")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        steps = Steps(folder)
        steps.run("a place to build (not counted)", sys.executable, "-m", "venv", "build", counts=False)
        build = ("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
        steps.run("build the wheel (not counted)", "build/bin/pip", *build, counts=False)
        (wheel,) = folder.glob("*.whl")
        steps.run("python -m venv", sys.executable, "-m", "venv", "env")
        cache = ("--no-cache-dir",) if arguments.no_cache else ()
        steps.run("pip install", "env/bin/pip", "install", "--quiet", *cache, str(wheel))
        steps.run("penstock demo, first time", "env/bin/penstock", "demo")
        print(f"{'to the first picture':<34} {'':>12} {steps.wall_s:6.1f} s")
        report = folder / "penstock-demo.html"
        if "</html>" not in report.read_text(encoding="utf-8"):
            sys.exit(f"{report} is no page")
        steps.run("penstock demo, again", "env/bin/penstock", "demo")


if __name__ == "__main__":
    main()
