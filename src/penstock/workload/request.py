"""A request as the user described it: what arrives, when, and how long its answer will be."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Request:
    """``index`` is the request's place in the file (sessions count one per call, in order).

    Token ids drive prefix caching only; without them a request hits no blocks but its own, after a preemption.
    ``session`` names the session the call belongs to, or is None. A lower ``priority`` is more urgent. ``model``
    names the model that has to serve it, or is None: whichever there is.
    """

    index: int
    arrival_ns: int
    input_tokens: int
    output_tokens: int
    input_ids: array[int] | None = None
    output_ids: array[int] | None = None
    session: int | None = None
    priority: int = 0
    model: str | None = None
