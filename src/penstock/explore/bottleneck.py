"""What stands in the way at the edge: a sentence from where the time of the stages and the requests goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from penstock.accounting.bubbles import BUBBLE_CAUSES, BubbleLedger
from penstock.accounting.stage_spans import StageCause
from penstock.recording.records import Cause, RunRecord, TurnChunk
from penstock.spec.cluster import ClusterSpec

BUSY_ENOUGH = 0.85
"""A stage that computes for so much of its active time is what the rest waits for."""

KEPT_OUT_ENOUGH = 0.5
"""Requests waited at the door for so much of the time that admission decides their TTFT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """``cause`` in one or two words (``compute``, ``kv memory``, ``max_num_seqs``, or a bubble's name), ``text``
    with the figures. ``stages`` holds, for each stage of each instance, its share of the window by cause."""

    metric: str | None
    cause: str
    text: str
    stages: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class EdgeWatch:
    """A TurnSink that accounts for the stages' time, and for the time in which requests were kept out."""

    def __init__(self, cluster: ClusterSpec) -> None:
        instances = cluster.instances
        self._ledger = BubbleLedger(
            [spec.pp_size for spec in instances],
            blocking_sends=[spec.blocking_sends for spec in instances],
            in_lockstep=[spec.in_lockstep for spec in instances],
        )
        self._by_blocks_ns = 0
        self._by_seqs_ns = 0
        self._prefill_tokens = 0
        self._tokens = 0
        self._last_ns: dict[int, tuple[int, bool, bool]] = {}

    def accept(self, chunk: TurnChunk) -> None:
        """Account for the chunk's turns."""
        self._ledger.accept(chunk)
        times = chunk.column("schedule_ns")
        cause = chunk.column("cause_after")
        full = cause == Cause.SEQS
        kept_out = full | (cause == Cause.MEMORY)
        # A turn's state holds until the next turn, which may stand in the next chunk.
        if chunk.instance in self._last_ns:
            before, was_out, was_full = self._last_ns[chunk.instance]
            times = np.concatenate([[before], times])
            kept_out = np.concatenate([[was_out], kept_out])
            full = np.concatenate([[was_full], full])
        spans = np.diff(times)
        self._by_seqs_ns += int(spans[(kept_out & full)[:-1]].sum())
        self._by_blocks_ns += int(spans[(kept_out & ~full)[:-1]].sum())
        self._last_ns[chunk.instance] = (int(times[-1]), bool(kept_out[-1]), bool(full[-1]))
        self._prefill_tokens += int(chunk.column("prefill_tokens").sum())
        self._tokens += int(chunk.column("tokens").sum())

    def bottleneck(self, record: RunRecord, metric: str | None) -> Bottleneck:
        """After the run; ``metric`` is the SLO's worst statistic."""
        ledger = self._ledger.finish(record.first_arrival_ns, record.end_ns)
        rows = list(ledger.rows())
        stages = tuple(_shares(row) for row in rows)
        active = [max(row["window_ns"] - row["idle_ns"], 1) for row in rows]
        busy = [row["busy_ns"] / ns for row, ns in zip(rows, active, strict=True)]
        fullest = max(range(len(rows)), key=busy.__getitem__)
        bubbles = {cause.name.lower(): ledger.share(cause) for cause in BUBBLE_CAUSES}
        largest = max(bubbles, key=bubbles.__getitem__)
        instances = max(len(record.totals), 1)
        window = max(ledger.window_ns, 1) * instances
        by_blocks, by_seqs = self._by_blocks_ns / window, self._by_seqs_ns / window
        waits = metric is None or metric.split("_")[0] in ("ttft", "queuing", "latency")
        busiest = f"stage {rows[fullest]['stage']} busy {busy[fullest]:.0%} of its active time"
        if waits and by_seqs >= KEPT_OUT_ENOUGH and by_seqs >= by_blocks:
            cause, text = (
                "max_num_seqs",
                f"requests wait {by_seqs:.0%} of the time for a place among max_num_seqs",
            )
        elif waits and by_blocks >= KEPT_OUT_ENOUGH:
            cause, text = (
                "kv memory",
                f"requests wait {by_blocks:.0%} of the time for KV blocks",
            )
        elif busy[fullest] >= BUSY_ENOUGH:
            cause, text = "compute", busiest
        else:
            cause, text = largest, f"{busiest}; largest bubble: {largest} {bubbles[largest]:.0%}"
        if cause == "compute" and self._tokens:
            text += f"; {self._prefill_tokens / self._tokens:.0%} of its tokens are prefill"
        return Bottleneck(metric=metric, cause=cause, text=text, stages=stages)


def _shares(row: Mapping[str, int]) -> Mapping[str, Any]:
    """A ledger's row as shares of the window."""
    window = max(row["window_ns"], 1)
    named = {cause.name.lower(): row[f"{cause.name.lower()}_ns"] / window for cause in StageCause}
    return {"instance": row["instance"], "stage": row["stage"], **named}
