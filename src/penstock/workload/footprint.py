"""How much memory a run takes at least, and how much this machine has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from penstock.units import GIB
from penstock.workload.workload import Workload

REQUEST_BYTES = 400
"""A finished request: its row of the record, its row of the table, and its place in the workload."""

TOKEN_ID_BYTES = 4

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def run_bytes(workload: Workload) -> int:
    """A lower bound: rows of requests and token ids; turns and times of tokens come on top."""
    return len(workload) * REQUEST_BYTES + workload.num_token_ids * TOKEN_ID_BYTES


def machine_bytes() -> int | None:
    """What this process may have: of the machine, or of the container; None where neither says it."""
    found: list[int] = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        found.append(int(_CGROUP.read_text(encoding="ascii")))
    return min(found, default=None)


def memory_problem(workload: Workload) -> str | None:
    """Why the run will not fit, or None."""
    needed, there = run_bytes(workload), machine_bytes()
    if there is None or needed <= there:
        return None
    has = f"{needed / GIB:,.1f} GiB at least, this machine has {there / GIB:,.1f}"
    return (
        f"{len(workload):,} requests take {has}: serve the first of them (num_reqs), or say check_memory off"
    )
