"""Who gets the tokens of a request."""

from __future__ import annotations

from typing import Protocol


class Recipient(Protocol):
    """The way from the simulated engine to one HTTP request. It is called on the event loop, and does not wait."""

    def put(self, sequence: int, due_ns: int) -> None:
        """A token of one of the request's sequences has left the simulated engine, at ``due_ns``."""
        ...

    def flush(self) -> None:
        """Pass on what was put."""
        ...

    def fail(self, reason: str) -> None:
        """Nothing more will come."""
        ...
