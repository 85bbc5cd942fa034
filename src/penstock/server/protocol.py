"""HTTP as uvicorn reads it, with a note of when each request had come in."""

from __future__ import annotations

import time

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RECEIVED = "penstock.received_ns"
"""Key of an ASGI scope: the machine's monotonic clock when the last byte of the request was read from the socket. The
request's own task may start much later: a burst is read at once and handled one by one."""


class ReceiptProtocol(HttpToolsProtocol):
    """Adds :data:`RECEIVED` to the scope."""

    def on_message_complete(self) -> None:
        """Called by httptools at the end of a body."""
        self.scope[RECEIVED] = time.monotonic_ns()  # type: ignore[typeddict-unknown-key]
        super().on_message_complete()
