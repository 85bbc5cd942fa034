"""Each instance's stages over time, packed for the page's chart of the pipeline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from penstock.accounting.bubbles import BubbleLedger
from penstock.accounting.stage_spans import StageCause, StageSpans
from penstock.recording.records import Int64Array, TurnChunk
from penstock.rendering.result import SimulationResult

MAX_SPANS = 2_000_000
"""In the chart of the pipeline: beyond these only the run's first part is drawn, so that the page stays small."""

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


class _CollectSpans:
    """A SpanSink that keeps every span of every stage."""

    def __init__(self, instances: int) -> None:
        self.parts: list[list[Sequence[StageSpans]]] = [[] for _ in range(instances)]

    def take(self, instance: int, spans: Sequence[StageSpans]) -> None:
        """Keep them."""
        self.parts[instance].append(spans)


def gantt_data(
    result: SimulationResult, chunks: Sequence[TurnChunk], steps: Mapping[int, Mapping[str, Int64Array]]
) -> list[dict[str, Any]]:
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
