"""How much memory a run takes at least."""

from __future__ import annotations

from penstock.files.memory import machine_bytes
from penstock.units import GIB
from penstock.workload.workload import Workload

REQUEST_BYTES = 400
"""A finished request: its row of the record, its row of the table, and its place in the workload."""

TOKEN_ID_BYTES = 4


def run_bytes(workload: Workload) -> int:
    """A lower bound: rows of requests and token ids; turns and times of tokens come on top."""
    return len(workload) * REQUEST_BYTES + workload.num_token_ids * TOKEN_ID_BYTES


def memory_problem(workload: Workload) -> str | None:
    """Why the run will not fit, or None."""
    needed, there = run_bytes(workload), machine_bytes()
    if there is None or needed <= there:
        return None
    has = f"{needed / GIB:,.1f} GiB at least, this machine has {there / GIB:,.1f}"
    return (
        f"{len(workload):,} requests take {has}: serve the first of them (num_reqs), or say check_memory off"
    )
