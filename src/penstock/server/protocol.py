"""HTTP as uvicorn reads it, with a note of when each request had come in, and a short way out for tokens."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RECEIVED = "penstock.received_ns"
"""Key of an ASGI scope: the machine's monotonic clock when the last byte of the request was read from the socket. The
request's own task may start much later: a burst is read at once and handled one by one."""

CONNECTION = "penstock.connection"
"""Key of an ASGI scope: the :class:`ReceiptProtocol` that the request came by."""


class ReceiptProtocol(HttpToolsProtocol):
    """Adds :data:`RECEIVED` and :data:`CONNECTION` to the scope.

    ``when_writable`` is called when the client has read what was sent to it, after :attr:`is_paused`.
    """

    when_writable: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See :class:`asyncio.Protocol`."""
        super().connection_made(transport)
        self._fd: int = transport.get_extra_info("socket").fileno()
        self._read_ns = 0

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._read_ns = time.monotonic_ns()
        super().data_received(data)

    def on_message_complete(self) -> None:
        """Called by httptools at the end of a body."""
        scope: Any = self.scope
        scope[RECEIVED] = self._read_ns
        scope[CONNECTION] = self
        super().on_message_complete()

    def resume_writing(self) -> None:
        """See :class:`asyncio.Protocol`."""
        super().resume_writing()
        if self.when_writable is not None:
            self.when_writable()

    @property
    def is_paused(self) -> bool:
        """Whether the client reads too slowly for more to be written."""
        return self.flow.write_paused

    def write_chunk(self, body: bytes) -> None:
        """Write a piece of a response that was begun without a length, now: a transport would keep it until the loop
        has called everybody who is due. What the kernel does not take goes by the transport."""
        transport = self.transport
        if transport.is_closing():
            return
        frame = b"%x\r\n%b\r\n" % (len(body), body)
        if not transport.get_write_buffer_size():
            try:
                written = os.write(self._fd, frame)
            except BlockingIOError:
                written = 0
            except OSError:  # the client has gone, of which the transport will tell
                return
            if written == len(frame):
                return
            frame = frame[written:]
        transport.write(frame)
