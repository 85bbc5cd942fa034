"""What a report shows, as plain values for the page's scripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.accounting.bubbles import CAUSE_NAMES, BubbleLedger
from penstock.accounting.metrics import RequestTable
from penstock.accounting.stage_spans import StageCause, StageSpans
from penstock.accounting.verdict import verdict
from penstock.errors import Problem, UserError
from penstock.files.document import understood
from penstock.files.frames import read_parquet
from penstock.files.json_text import load_json
from penstock.recording.records import TURN_COLUMNS, Int64Array, TurnChunk
from penstock.rendering.kv_data import kv_data
from penstock.rendering.result import SimulationResult
from penstock.rendering.summary_shape import SavedRun
from penstock.spec.check import check_document
from penstock.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    import polars as pl

CDF_POINTS = 200
TIME_POINTS = 400
MAX_SPANS = 2_000_000
"""In the chart of the pipeline: beyond these only the run's first part is drawn, so that the page stays small."""

_LATENCIES = {"TTFT": "ttft", "TPOT": "tpot", "latency": "latency", "queuing": "queuing"}
_STEP_DETAILS = (
    "tokens",
    "prefills",
    "prefill_tokens",
    "decodes",
    "context_tokens",
    "free_blocks",
    "running",
    "waiting",
)


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
    requests = {f"{name}_ns": getattr(finished, f"{name}_ns") for name in _LATENCIES.values()}
    requests |= {name: finished.column(name) for name in ("arrival_ns", "finish_ns")}
    chunks = list(result.turns()) if result.keeps_turns else []
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
        steps=_steps_of(chunks),
        memory=memory,
        gantt=_gantt(result, chunks) if result.keeps_stages else (),
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
    columns = [f"{column}_ns" for column in (*_LATENCIES.values(), "arrival", "finish")]
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


def stage_causes(instance: Mapping[str, Any]) -> list[dict[str, int]]:
    """ns by cause of each stage of an instance of ``summary.json``, ``busy`` first; empty without a ledger."""
    if any(stage["causes_ns"] is None for stage in instance["stages"]):
        return []
    return [{"busy": stage["busy_ns"], **stage["causes_ns"]} for stage in instance["stages"]]


def page_data(view: RunView) -> dict[str, Any]:
    """Everything the page's scripts need to know of a run, ready for JSON."""
    summary = view.summary
    start_ns = summary["first_arrival_ns"]
    instances: list[dict[str, Any]] = []
    waiting = mean_waiting(view)
    for place, instance in enumerate(summary["instances"]):
        causes = stage_causes(instance)
        role = view.inputs["instances"][place].get("pd_type")
        title = f"instance {instance['instance']}" + (f" ({role})" if role else "")
        instances.append(
            {
                "title": title,
                "model": f"{instance['model']}, tp {instance['tp_size']} x pp {instance['pp_size']}",
                "verdict": verdict(causes, waiting) if causes else ["No request finished."],
                "stages": instance["stages"],
                "causes": causes,
                "memory": view.memory[place],
                "cohorts": _cohorts(view.steps.get(place), start_ns),
            }
        )
    return {
        "name": view.name,
        "summary": {key: summary[key] for key in ("requests", "engine", "throughput", "simulated_ns")},
        "latency": summary["latency"],
        "cdfs": {title: _cdf(view.requests[f"{key}_ns"]) for title, key in _LATENCIES.items()},
        "over_time": _over_time(view),
        "energy": _energy(view),
        "instances": instances,
        "inputs": view.inputs,
        "basis": list(dict.fromkeys(line for one in summary["instances"] for line in one["basis"])),
        "notes": [note for one in summary["instances"] for note in one["notes"]] + list(summary["notices"]),
        "rejections": [f"request {one['request']}: {one['reason']}" for one in summary["rejections"]],
        "start_ns": start_ns,
        "gantt": list(view.gantt),
        "causes": list(CAUSE_NAMES),
        "kv": dict(view.kv),
    }


def mean_waiting(view: RunView) -> float | None:
    """Finished requests that wait for their first step, on average and per instance, while requests arrive (Little's
    law: all their waits over that time); None where they all arrive at once."""
    arrival, queuing = view.requests["arrival_ns"], view.requests["queuing_ns"]
    if len(arrival) < 2 or arrival.max() == arrival.min():
        return None
    return float(queuing.sum()) / float(arrival.max() - arrival.min()) / len(view.summary["instances"])


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


def _cdf(values: Int64Array) -> dict[str, list[float]]:
    """Milliseconds at evenly spaced shares of the requests."""
    if not len(values):
        return {"x": [], "y": []}
    shares = np.linspace(0, 100, min(CDF_POINTS, len(values)) if len(values) > 1 else 1)
    return {"x": _rounded(np.percentile(values, shares) / NS_PER_MS, 4), "y": _rounded(shares, 3)}


def _over_time(view: RunView) -> dict[str, Any]:
    """Rates and states at up to TIME_POINTS moments, over all instances."""
    start = view.summary["first_arrival_ns"]
    end = view.summary["last_completion_ns"] or start
    if not view.steps or end <= start:
        return {}
    edges = np.linspace(start, end, min(TIME_POINTS, max(2, (end - start) // NS_PER_MS)) + 1)
    width_s = (edges[1] - edges[0]) / NS_PER_S
    count = len(edges) - 1
    series = {name: np.zeros(count) for name in ("prompt", "generated", "running", "waiting", "kv")}
    for instance, steps in view.steps.items():
        for name, weights in (("prompt", steps["prefill_tokens"]), ("generated", steps["sampled"])):
            at = steps["schedule_ns"] if name == "prompt" else steps["update_ns"]
            series[name] += np.histogram(np.clip(at, start, end), edges, weights=weights)[0] / width_s
        state = np.searchsorted(steps["schedule_ns"], edges[1:], side="left") - 1
        known = state >= 0
        blocks = view.inputs["instances"][instance]["scheduler"]["block_size"]
        capacity = view.summary["instances"][instance]["kv_tokens"] // blocks
        over = edges[1:] > steps["update_ns"][-1]
        for name in ("running", "waiting"):
            series[name] += np.where(known & ~over, steps[name][state], 0)
        used = np.where(known & ~over, capacity - steps["free_blocks"][state], 0)
        series["kv"] += 100 * used / max(capacity, 1) / len(view.steps)
    middle = (edges[1:] + edges[:-1]) / 2
    return {"t": _rounded((middle - start) / NS_PER_S, 6)} | {
        name: _rounded(values, 3) for name, values in series.items()
    }


def _energy(view: RunView) -> dict[str, Any]:
    """The summary's energy, and mean W by component over time, in s from the first arrival; empty if not known."""
    energy = view.summary.get("energy")
    if energy is None or not view.power:
        return {}
    start = view.summary["first_arrival_ns"]
    names = [name for name in view.power if name.endswith("_w") and any(view.power[name])]
    begin, end = np.array(view.power["begin_ns"]), np.array(view.power["end_ns"])
    return {
        "summary": energy,
        "t": _rounded(((begin + end) / 2 - start) / NS_PER_S, 6),
        "watts": {name.removesuffix("_w"): _rounded(view.power[name], 3) for name in names},
    }


def _cohorts(steps: Mapping[str, Int64Array] | None, start_ns: int) -> dict[str, Any]:
    """Decodes per step over time: every step of a short run, else least, mean and most per interval."""
    if steps is None:
        return {}
    carrying = steps["decodes"] > 0
    at, decodes = (steps["schedule_ns"][carrying] - start_ns) / NS_PER_S, steps["decodes"][carrying]
    if not len(at):
        return {}
    if len(at) <= 4000:
        return {"t": _rounded(at, 6), "steps": decodes.tolist()}
    groups = np.array_split(np.arange(len(at)), TIME_POINTS)
    return {
        "t": _rounded(np.array([at[group].mean() for group in groups]), 6),
        "least": [int(decodes[group].min()) for group in groups],
        "mean": _rounded(np.array([decodes[group].mean() for group in groups]), 2),
        "most": [int(decodes[group].max()) for group in groups],
    }


class _CollectSpans:
    """A SpanSink that keeps every span of every stage."""

    def __init__(self, instances: int) -> None:
        self.parts: list[list[Sequence[StageSpans]]] = [[] for _ in range(instances)]

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        """Keep them."""
        self.parts[instance].append(spans)


def _gantt(result: SimulationResult, chunks: Sequence[TurnChunk]) -> list[dict[str, Any]]:
    """Each instance's stages over time. A stage is ``first_ns`` and, packed, length x number of causes + cause of
    each span in order; its n-th busy span is step n."""
    summary = result.summary
    if summary.last_completion_ns is None:
        return []
    deployments = result.record.deployments
    collector = _CollectSpans(len(deployments))
    blocking = [instance["blocking_sends"] for instance in result.context.inputs["instances"]]
    lockstep = [instance.get("dp_size", 1) > 1 for instance in result.context.inputs["instances"]]
    ledger = BubbleLedger(
        [one.pp_size for one in deployments], blocking_sends=blocking, in_lockstep=lockstep, sinks=[collector]
    )
    for chunk in chunks:
        ledger.accept(chunk)
    ledger.finish(summary.first_arrival_ns, summary.last_completion_ns)
    stages = [
        [StageSpans.joined(parts) for parts in zip(*collector.parts[place], strict=True)]
        for place in range(len(deployments))
    ]
    total = sum(len(spans.cause) for instance in stages for spans in instance)
    until_ns = summary.last_completion_ns
    if total > MAX_SPANS:
        begins = np.concatenate([spans.begin_ns for instance in stages for spans in instance])
        until_ns = int(np.partition(begins, MAX_SPANS)[MAX_SPANS])
    steps = _steps_of(chunks)
    return [
        {
            "stages": [_packed_spans(spans, until_ns) for spans in instance],
            "steps": _packed_steps(steps.get(place), until_ns),
            "until_ns": until_ns,
            "complete": until_ns == summary.last_completion_ns,
        }
        for place, instance in enumerate(stages)
    ]


def _packed_spans(spans: StageSpans, until_ns: int) -> dict[str, Any]:
    kept = spans.clipped(until_ns)
    kept = kept.chosen(np.argsort(kept.begin_ns, kind="stable"))
    # Neighbours of one cause are one wait; steps stay apart.
    starts = np.ones(len(kept.cause), dtype=np.bool_)
    starts[1:] = (kept.cause[1:] != kept.cause[:-1]) | (kept.cause[1:] == StageCause.BUSY)
    first = np.flatnonzero(starts)
    begin = kept.begin_ns[first]
    end = np.append(begin[1:], kept.end_ns[-1:])
    packed = (end - begin) * len(StageCause) + kept.cause[first]
    return {"first_ns": int(begin[0]) if len(begin) else 0, "count": len(first), "spans": pack(packed)}


def _packed_steps(steps: Mapping[str, Int64Array] | None, until_ns: int) -> dict[str, Any]:
    if steps is None:
        return {"count": 0}
    chosen = steps["schedule_ns"] < until_ns
    columns = {name: pack(steps[name][chosen]) for name in _STEP_DETAILS}
    schedule = steps["schedule_ns"][chosen]
    columns["schedule_ns"] = pack(np.diff(schedule, prepend=0))
    return {"count": int(chosen.sum()), **columns}


def pack(values: Int64Array) -> str:
    """Non-negative integers as base64 of little-endian base-128 numbers (LEB128)."""
    if not len(values):
        return ""
    sizes = np.ones(len(values), dtype=np.int64)
    for power in range(1, 9):
        sizes += values >= 1 << (7 * power)
    ends = np.cumsum(sizes)
    packed = np.zeros(int(ends[-1]), dtype=np.uint8)
    left = values.copy()
    for place in range(int(sizes.max())):
        here = sizes > place
        more = np.where(sizes[here] > place + 1, 0x80, 0)
        packed[(ends - sizes)[here] + place] = (left[here] & 0x7F) | more
        left >>= 7
    return base64.b64encode(packed.tobytes()).decode("ascii")


def _rounded(values: Any, digits: int) -> list[float]:
    return np.round(values, digits).tolist()
