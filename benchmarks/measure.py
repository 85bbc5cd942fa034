"""CPU time, wall time and peak memory of a child process, from the kernel's own account of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.inputs import REPOSITORY

_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Modules are compiled once, as an installation has them."""


class FailedCaseError(Exception):
    """A child ended with an error: its command and the end of what it printed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of one process, with all its threads."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def check_out(commit: str, folder: Path) -> None:
    """Put the package and the configs of a commit into a folder."""
    archive = subprocess.run(
        ["git", "archive", commit, "src", "configs"], cwd=REPOSITORY, check=True, capture_output=True
    )
    subprocess.run(["tar", "x", "-C", str(folder)], input=archive.stdout, check=True)


def run_child(command: Sequence[str]) -> tuple[Usage, str]:
    """Run to the end; returns its usage and its standard output.

    This process must stay small itself: the kernel counts what a child shares with it before ``exec``.

    Raises:
        FailedCaseError: the exit code is not 0.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        child = subprocess.Popen(command, stdout=output, stderr=errors, cwd=REPOSITORY, env=_ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            raise FailedCaseError(f"{' '.join(command)}\n{errors.read().decode()[-2000:]}")
        spent = Usage(
            cpu_s=usage.ru_utime + usage.ru_stime, wall_s=wall_s, peak_mb=usage.ru_maxrss * 1024 / 1e6
        )
        return spent, output.read().decode()


def run_worker(job: dict[str, Any]) -> tuple[Usage, dict[str, Any]]:
    """Run ``benchmarks.worker`` on a job; returns its usage and its answer."""
    usage, output = run_child([sys.executable, "-m", "benchmarks.worker", json.dumps(job)])
    return usage, json.loads(output.splitlines()[-1])
