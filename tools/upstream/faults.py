"""Faults of LLMServingSim that show in the files it ships, each with what shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upstream.runs import RUNS

_BY_NAME = {run.name: run for run in RUNS}


def faults(data: Path) -> Iterator[str]:
    """The table, line by line."""
    yield "| fault | what shows it |"
    yield "|---|---|"
    yield f"| attention in PIM does not grow with the answer | {_flat_attention(data)} |"
    yield f"| arrivals at an idle cluster wait up to 1 ms | {_idle_waits(data)} |"
    yield f"| nodes never enter the network | {_nodes(data)} |"
    yield f"| data-parallel members take turns beside dummies | {_turns(data)} |"


def _flat_attention(data: Path) -> str:
    gaps = _BY_NAME["pim"].theirs(data)[0][1:]
    alone = next(place for place, gap in enumerate(gaps) if gap != gaps[0])
    return f"`example_pim_run.csv`, request 0: its first {alone} ITLs are all {gaps[0]:,} ns"


def _idle_waits(data: Path) -> str:
    """Of a session, whose calls come one at a time and so find nothing running."""
    rows = _BY_NAME["moe_dp_ep"].rows(data).values()
    waits = [int(row["queuing_delay"]) for row in rows if 0 < int(row["queuing_delay"]) <= 1_000_000]
    told = f"{len(waits)} of {len(rows)} calls of one session wait {min(waits):,} to {max(waits):,} ns"
    return f"`example_moe_dp_ep_run.csv`: {told}"


def _nodes(data: Path) -> str:
    """What its network is told of four instances on two nodes."""
    name = "dual_node_multi_instance"
    lines = (data / "astra_inputs" / name / "network.yml").read_text(encoding="utf-8").splitlines()
    count = next(line for line in lines if line.startswith("npus_count"))
    return f"`network.yml` of {name}, four instances on two nodes: `{count}`, one dimension for all four"


def _turns(data: Path) -> str:
    """The gaps of request 1 before and after another member has requests of its own."""
    gaps = _BY_NAME["moe_dp_tp"].theirs(data)[1]
    return f"`example_moe_dp_tp_run.csv`, request 1: ITLs of {gaps[1]:,} ns, then of {gaps[2]:,} ns"
