"""Turns of real data-parallel engines, as ``turns.jsonl.gz`` and ``requests.jsonl.gz`` of a run have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.document import understood
from penstock.files.json_text import json_lines
from penstock.spec.options import SchedulerOptions
from penstock.workload.request import Request

COMPARED = (
    "engines_running",
    "step_counter",
    "wave",
    "scheduled",
    "executed",
    "dummy",
    "unfinished",
    "goes_on",
    "fwd",
)
"""What a turn is compared in. ``scheduled`` None: schedule() was not called; ``fwd`` None: no forward."""

MOST = 1024
"""Ranks, and stages."""

Message = tuple[str, Any, Any]
"""("add", request, its wave) or ("start", wave, the rank left out)."""


@dataclass(frozen=True, slots=True)
class RealTurn:
    """One turn of a rank: the messages it took in first, and what it then did (``COMPARED``)."""

    messages: tuple[Message, ...]
    did: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RealTurns:
    """``turns[rank]`` in order. Times are left out: the machine was shared."""

    turns: tuple[tuple[RealTurn, ...], ...]
    requests: tuple[Request, ...]
    pp_size: int

    @property
    def options(self) -> SchedulerOptions:
        """The engine options of the two runs (``vllm-0.32.0-dp/real-cpu``)."""
        return SchedulerOptions(
            max_num_seqs=8,
            max_num_batched_tokens=256,
            block_size=32,
            enable_prefix_caching=False,
            max_in_flight=self.pp_size,
        )

    num_gpu_blocks = 200


def read_real_turns(directory: Path) -> RealTurns:
    """Read a run.

    Raises:
        UserError: a file is missing or not what it should be.
    """
    with understood(str(directory), "is no real run of data-parallel engines"):
        return _read(directory)


def _read(directory: Path) -> RealTurns:
    rows = {name: list(_rows(directory / f"{name}.jsonl.gz")) for name in ("requests", "turns", "workers")}
    requests = {
        row["req_id"]: Request(index, row["sent_ns"], row["input_toks"], row["output_toks"])
        for index, row in enumerate(rows["requests"])
    }
    ranks = _count(rows["turns"], "rank", directory / "turns.jsonl.gz")
    turns = tuple(
        tuple(_turn(row, requests) for row in rows["turns"] if row["rank"] == rank) for rank in range(ranks)
    )
    stages = _count(rows["workers"], "stage", directory / "workers.jsonl.gz")
    return RealTurns(turns, tuple(requests.values()), stages)


def _count(rows: Iterable[Mapping[str, Any]], name: str, file: Path) -> int:
    """How many ranks or stages there are, which count from 0."""
    last = -1
    for row in rows:
        value = row[name]
        if type(value) is not int or not 0 <= value < MOST:
            raise UserError([Problem(f"{file}: {name}", f"must be an integer from 0 to {MOST - 1}")])
        last = max(last, value)
    return last + 1


def _turn(row: Mapping[str, Any], requests: Mapping[str, Request]) -> RealTurn:
    messages: list[tuple[int, Message]] = [
        (at_ns, ("add", requests[name], wave)) for at_ns, name, wave in row["adds"]
    ]
    messages += [
        (at_ns, ("start", wave, int(exclude) if exclude.isdecimal() else exclude))
        for at_ns, wave, exclude in row["start_dp_wave"]
    ]
    did = {name: row.get(name) for name in COMPARED}
    did["dummy"] = "dummy_ns" in row
    if row["scheduled"] is not None:
        did["scheduled"] = [[requests[name].index, tokens] for name, tokens in row["scheduled"]]
    return RealTurn(tuple(message for _, message in sorted(messages, key=lambda each: each[0])), did)


def _rows(file: Path) -> Iterable[Mapping[str, Any]]:
    for where, row in json_lines(file):
        if not isinstance(row, dict):
            raise UserError([Problem(where, "must be an object")])
        yield row
