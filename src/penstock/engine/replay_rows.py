"""Rows of a replay in the schema of the vLLM recordings: one per step, one per request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.scheduler.protocol import SchedulerStatus
from penstock.scheduler.request_state import Outcome, RequestState
from penstock.scheduler.step import UNKNOWN_NS, Step


class RequestRows:
    """``rows`` by the request's index."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, Any]] = {}
        self._orders: dict[int, int] = {}

    def expect(self, state: RequestState) -> None:
        """A request that may arrive."""
        self.rows[state.request.index] = {
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

    def added(self, state: RequestState, now: int) -> None:
        """The engine has taken it in."""
        self.rows[state.request.index]["added_ns"] = now

    def scheduled(self, state: RequestState, now: int, computed: int) -> None:
        """It is in a step that was just scheduled, after ``computed`` tokens."""
        row = self.rows[state.request.index]
        if row["first_scheduled_ns"] is None:
            row["first_scheduled_ns"] = now
            row["cached_tokens"] = computed
        elif state.order != self._orders[state.request.index]:
            row["resumes"].append([now, computed, state.num_tokens])
        self._orders[state.request.index] = state.order

    def ended(self, state: RequestState, now: int) -> None:
        """It has all its tokens, or its KV could not be had."""
        row = self.rows[state.request.index]
        row["finish_ns"] = now
        row["finish_reason"] = "error" if state.outcome is Outcome.FAILED else "length"

    def close(self, states: Iterable[RequestState]) -> None:
        """Complete the rows from the requests' states."""
        for state in states:
            row = self.rows.get(state.request.index)
            if row is None:
                continue
            segments = list(state.segments)
            if state.cohort is not None:
                times = state.cohort.times
                segments.append((times, state.segment_start, len(times)))
            row["first_token_ns"] = state.first_token_ns
            row["token_times_ns"] = [t for times, start, stop in segments for t in times[start:stop]]
            row["num_preemptions"] = state.preemptions


class StepRows:
    """The ``iterations`` of one engine: its steps with tokens, and those that only preempted. ``free_before`` are
    the free blocks before the next schedule(). ``times_empty_steps``: also when the result of a step was taken that
    only preempted."""

    def __init__(self, requests: RequestRows, *, times_empty_steps: bool = False) -> None:
        self.requests = requests
        self.times_empty_steps = times_empty_steps
        self.iterations: list[dict[str, Any]] = []
        self.free_before = 0
        self._row_of: dict[int, dict[str, Any]] = {}
        self._empty_before = 0

    def scheduled(
        self, step: Step, now: int, status: SchedulerStatus, in_flight: int
    ) -> dict[str, Any] | None:
        """Write a step down that was just sent off, behind ``in_flight`` others; its row, if it has one."""
        free_before, self.free_before = self.free_before, status.free_blocks
        if not step.tokens and not step.preempted:
            self._empty_before += 1
            return None
        contents = step.contents()
        for state, _, computed in contents:
            self.requests.scheduled(state, now, computed)
        row: dict[str, Any] = {
            "iter": len(self.iterations),
            "t_schedule_ns": now,
            "t_done_ns": step.known_done_ns,
            "t_update_ns": None,
            "scheduled": [[state.request.index, new, computed] for state, new, computed in contents],
            "preempted": [state.request.index for state in step.preempted],
            "free_blocks_before": free_before,
            "free_blocks_after": status.free_blocks,
            "num_running": status.running,
            "num_waiting": status.waiting,
            "queue_len_before": in_flight,
            "empty_schedules_before": self._empty_before,
        }
        final = {id(state) for state in step.sampling}
        partial = [state.request.index for state, _, _ in step.chunks if id(state) not in final]
        if partial:
            row["partial_prefill"] = partial
        self._empty_before = 0 if step.tokens else 1
        self.iterations.append(row)
        self._row_of[id(step)] = row
        return row

    def updated(self, step: Step, now: int, ended: Sequence[RequestState], status: SchedulerStatus) -> None:
        """The engine has taken the step's tokens at ``now``."""
        self.free_before = status.free_blocks
        row = self._row_of.pop(id(step), None)
        if row is not None:
            row["t_done_ns"] = step.done_ns if step.done_ns != UNKNOWN_NS else None
            if step.tokens or self.times_empty_steps:
                row["t_update_ns"] = now
        for state in ended:
            self.requests.ended(state, now)
