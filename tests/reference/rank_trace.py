"""What a data-parallel rank did, in the schema of the recordings, with request indices for names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.workload.request import Request

from .scheduler import ReferenceScheduler, RequestState, Schedule


@dataclass
class RankTrace:
    """One rank's iterations and its requests, and its totals."""

    iterations: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[int, dict[str, Any]] = field(default_factory=dict)
    num_empty_schedules: int = 0
    num_idle_sleeps: int = 0

    def expect(self, request: Request) -> None:
        """A request that may arrive: its row, with nothing in it yet."""
        self.requests[request.index] = {
            "added_ns": None,
            "first_scheduled_ns": None,
            "first_token_ns": None,
            "finish_ns": None,
            "token_times_ns": [],
            "num_preemptions": 0,
            "cached_tokens": None,
            "resumes": [],
            "finish_reason": None,
        }

    def write_schedule(
        self,
        scheduler: ReferenceScheduler,
        schedule: Schedule,
        *,
        now: int,
        free_before: int,
        in_flight: Sequence[Schedule],
        empty_before: int,
    ) -> dict[str, Any]:
        """The row of a schedule() that scheduled or preempted something. Its later times are None."""
        row: dict[str, Any] = {
            "iter": len(self.iterations),
            "t_schedule_ns": now,
            "t_done_ns": None,
            "t_update_ns": None,
            "scheduled": [
                [chunk.state.request.index, chunk.new, chunk.computed] for chunk in schedule.chunks
            ],
            "preempted": [each.state.request.index for each in schedule.preemptions],
            "free_blocks_before": free_before,
            "free_blocks_after": len(scheduler.kv.free),
            "num_running": len(scheduler.running),
            "num_waiting": len(scheduler.waiting),
            "queue_len_before": len(in_flight),
            "empty_schedules_before": empty_before,
        }
        if schedule.preemptions:
            row["preempted_detail"] = [
                {
                    "req_id": each.state.request.index,
                    "num_tokens": each.num_tokens,
                    "num_computed": each.computed,
                    "in_flight": sum(
                        chunk.state is each.state for step in in_flight for chunk in step.chunks
                    ),
                }
                for each in schedule.preemptions
            ]
        partial = [chunk.state.request.index for chunk in schedule.chunks if not chunk.samples]
        if partial:
            row["partial_prefill"] = partial
        self._write_admissions(schedule, now)
        self.iterations.append(row)
        return row

    def _write_admissions(self, schedule: Schedule, now: int) -> None:
        for admission in schedule.admissions:
            row = self.requests[admission.state.request.index]
            if admission.resumed:
                row["resumes"].append([now, admission.cached, admission.num_tokens])
            else:
                row["first_scheduled_ns"] = now
                row["cached_tokens"] = admission.cached
        for preemption in schedule.preemptions:
            self.requests[preemption.state.request.index]["num_preemptions"] += 1

    def write_tokens(self, delivered: Iterable[tuple[RequestState, bool]], now: int) -> None:
        """What :meth:`ReferenceScheduler.update` returned at ``now``."""
        for state, finished in delivered:
            row = self.requests[state.request.index]
            if row["first_token_ns"] is None:
                row["first_token_ns"] = now
            row["token_times_ns"].append(now)
            if finished:
                row["finish_ns"] = now
                row["finish_reason"] = "length"
