"""A run as reports and comparisons see it, just ended or read from the files of ``--results``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.accounting.metrics import RequestTable
from penstock.errors import Problem, UserError
from penstock.files.document import understood
from penstock.files.frames import read_parquet
from penstock.files.json_text import load_json
from penstock.recording.records import TURN_COLUMNS, Int64Array, TurnChunk
from penstock.rendering.gantt_data import gantt_data
from penstock.rendering.kv_data import kv_data
from penstock.rendering.result import SimulationResult
from penstock.rendering.summary_shape import SavedRun
from penstock.spec.check import check_document

if TYPE_CHECKING:
    import polars as pl

LATENCIES = {"TTFT": "ttft", "TPOT": "tpot", "latency": "latency", "queuing": "queuing"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as reports and comparisons see it, from memory or from ``--results``.

    ``summary`` and ``inputs`` are those of ``summary.json``; ``steps[instance]`` holds columns of the turn log,
    ``requests`` columns of the table of requests, finished ones only; ``memory`` each instance's stages as
    (part, bytes) pairs; ``gantt`` each instance's stages over time, packed; ``power`` columns of the table of power;
    ``kv`` is :func:`kv_data`'s.
    """

    name: str
    summary: Mapping[str, Any]
    inputs: Mapping[str, Any]
    requests: Mapping[str, Int64Array]
    steps: Mapping[int, Mapping[str, Int64Array]]
    memory: Sequence[Sequence[Sequence[tuple[str, int]]]]
    gantt: Sequence[Mapping[str, Any]] = field(default=())
    power: Mapping[str, Int64Array | Sequence[float]] = field(
        default_factory=dict[str, Int64Array | Sequence[float]]
    )
    kv: Mapping[str, Any] = field(default_factory=dict[str, Any])


def view_of(result: SimulationResult, name: str = "run") -> RunView:
    """A run that has just ended."""
    document = json.loads(json.dumps(result.summary_json()))
    finished = RequestTable.of(result.record)
    requests = {f"{name}_ns": getattr(finished, f"{name}_ns") for name in LATENCIES.values()}
    requests |= {name: finished.column(name) for name in ("arrival_ns", "finish_ns")}
    chunks = list(result.turns()) if result.keeps_turns else []
    steps = _steps_of(chunks)
    memory = [
        [
            [("weights", stage.weights_bytes)]
            + [(part, size) for part, size in stage.reserves if size]
            + [
                (
                    "KV cache",
                    stage.usable_bytes - stage.weights_bytes - stage.stranded_bytes - _reserved(stage),
                )
            ]
            + [("stranded", stage.stranded_bytes)]
            + [("not to be used", stage.capacity_bytes - stage.usable_bytes)]
            for stage in deployment.memory.stages
        ]
        for deployment in result.record.deployments
    ]
    return RunView(
        name=name,
        summary=document["summary"],
        inputs=document["inputs"],
        requests=requests,
        steps=steps,
        memory=memory,
        gantt=gantt_data(result, chunks, steps) if result.keeps_stages else (),
        power={} if result.energy is None else result.energy.columns(),
        kv=kv_data(result.record),
    )


def view_of_directory(directory: str | Path) -> RunView:
    """A run from the files of ``--results``.

    Raises:
        UserError: files are missing or cannot be read.
    """
    path = Path(directory)
    try:
        document = load_json(path / "summary.json")
        check_document(SavedRun, document, str(path / "summary.json"))
        requests = read_parquet(path / "requests.parquet")
        steps = read_parquet(path / "steps.parquet") if (path / "steps.parquet").exists() else None
        power = read_parquet(path / "power.parquet") if (path / "power.parquet").exists() else None
    except UserError as error:
        told = [
            Problem(one.where, f"{one.message}; is this a directory of --results?") for one in error.problems
        ]
        raise UserError(told) from error
    with understood(str(directory), "cannot be read as --results"):
        return _view(path, document, requests, {"steps": steps, "power": power})


def _view(
    path: Path, document: Mapping[str, Any], requests: pl.DataFrame, tables: Mapping[str, pl.DataFrame | None]
) -> RunView:
    steps, power_table = tables["steps"], tables["power"]
    power = {} if power_table is None else power_table.to_dict(as_series=False)
    summary, inputs = document["summary"], document["inputs"]
    finished = requests.filter(requests["status"] == "finished") if "status" in requests.columns else requests
    columns = [f"{column}_ns" for column in (*LATENCIES.values(), "arrival", "finish")]
    by_instance: dict[int, dict[str, Int64Array]] = {}
    if steps is not None:
        if "instance" not in steps.columns:
            raise ValueError("steps.parquet has no column instance")
        for key, frame in steps.partition_by("instance", as_dict=True).items():
            names = [name for name in TURN_COLUMNS if name != "cause_after"]
            by_instance[int(key[0])] = {name: _integers(frame, name) for name in names}
    known = range(min(len(inputs["instances"]), len(summary["instances"])))
    stranger = next((place for place in by_instance if place not in known), None)
    if stranger is not None:
        raise ValueError(f"steps.parquet has instance {stranger}, summary.json has not")
    columns_of_requests = {column: _integers(finished, column) for column in columns}
    memory = [
        [
            [("weights", stage["weights_bytes"]), ("stranded", stage["stranded_bytes"])]
            for stage in instance["stages"]
        ]
        for instance in summary["instances"]
    ]
    return RunView(
        name=path.name,
        summary=summary,
        inputs=inputs,
        requests=columns_of_requests,
        steps=by_instance,
        memory=memory,
        power=power,
    )


def _integers(frame: pl.DataFrame, name: str) -> Int64Array:
    """A column of whole numbers, none missing."""
    import polars as pl

    if name not in frame.columns:
        raise ValueError(f"there is no column {name}")
    column = frame[name]
    if not column.dtype.is_integer() or column.null_count():
        raise ValueError(f"column {name} holds something that is no whole number")
    return column.cast(pl.Int64).to_numpy()


def _reserved(stage: Any) -> int:
    return sum(size for _, size in stage.reserves)


def _steps_of(chunks: Sequence[TurnChunk]) -> dict[int, dict[str, Int64Array]]:
    """Columns of all steps with tokens, by instance."""
    rows: dict[int, list[Int64Array]] = {}
    for chunk in chunks:
        rows.setdefault(chunk.instance, []).append(chunk.values[chunk.column("tokens") > 0])
    return {
        instance: {
            name: np.concatenate([part[:, place] for part in parts])
            for place, name in enumerate(TURN_COLUMNS)
        }
        for instance, parts in rows.items()
    }
