"""What a reference engine writes down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ReferenceTrace:
    """``iterations`` and ``requests`` are in the schema of the recordings, with request indices for names.
    ``turns`` has an entry for every call of schedule() whose result was taken, empty ones too, named as
    :data:`penstock.recording.records.TURN_COLUMNS`, with ``arrive``, ``start`` and ``end`` of the stages."""

    iterations: list[dict[str, Any]] = field(default_factory=list)
    requests: dict[int, dict[str, Any]] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[int, str] = field(default_factory=dict)
    num_empty_schedules: int = 0
    num_idle_sleeps: int = 0
    num_engine_turns: int = 0
    end_ns: int = 0
    free_blocks_end: int = 0
    deadlock: bool = False
    empty_before: int = 0

    def add_request(self, index: int) -> None:
        """An entry for a request that is served here."""
        self.requests[index] = {
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

    def take_token(self, index: int, now: int, *, finished: bool) -> None:
        """A token has come back."""
        row = self.requests[index]
        if row["first_token_ns"] is None:
            row["first_token_ns"] = now
        row["token_times_ns"].append(now)
        if finished:
            row["finish_ns"] = now
            row["finish_reason"] = "length"
