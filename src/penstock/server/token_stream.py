"""The tokens of one streamed answer, written as they come."""

from __future__ import annotations

import asyncio
from array import array

from penstock.server.answer_text import AnswerText
from penstock.server.clock import SimulatedClock
from penstock.server.formats import DONE, AnswerFormat
from penstock.server.lateness import Lateness
from penstock.server.protocol import ReceiptProtocol


class TokenStream:
    """A :class:`~penstock.server.recipient.Recipient` that writes to ``connection``, no task between. A client that
    reads too slowly finds several tokens in a message; until it reads, 12 bytes are kept of each.

    ``failure`` says why nothing more will come.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_due_ns",
        "_end",
        "_lateness",
        "_opening",
        "_says_usage",
        "_sequences",
        "_style",
        "failure",
        "text",
    )

    def __init__(
        self,
        text: AnswerText,
        style: AnswerFormat,
        connection: ReceiptProtocol,
        clock: SimulatedClock,
        lateness: Lateness,
        *,
        says_usage: bool,
    ) -> None:
        self.text = text
        self.failure: str | None = None
        self._style = style
        self._connection = connection
        self._clock = clock
        self._lateness = lateness
        self._says_usage = says_usage
        self._opening = style.opening(text.sequences)
        self._due_ns: array[int] = array("q")
        self._sequences: array[int] = array("i")
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(self, sequence: int, due_ns: int) -> None:
        """See :class:`~penstock.server.recipient.Recipient`."""
        self._due_ns.append(due_ns)
        self._sequences.append(sequence)

    def flush(self) -> None:
        """See :class:`~penstock.server.recipient.Recipient`; a token is late until the kernel has it."""
        due_ns = self._due_ns
        if not due_ns or self._end.done() or self._connection.is_paused:
            return
        self._connection.write_chunk(self.rest())
        self._lateness.note(due_ns, self._clock.now_ns())
        if not self.text.left:
            self._end.set_result(None)

    def rest(self) -> bytes:
        """What was put and not written; it counts as written then."""
        sequences, text = self._sequences, self.text
        self._due_ns, self._sequences = array("q"), array("i")
        if len(sequences) == 1:
            body = text.chunk(sequences[0], 1)
        else:
            counts: dict[int, int] = {}
            for sequence in sequences:
                counts[sequence] = counts.get(sequence, 0) + 1
            body = b"".join(text.chunk(sequence, count) for sequence, count in counts.items())
        if self._opening and sequences:
            body = self._opening + body
            self._opening = b""
        if not text.left:
            if self._says_usage:
                body += self._style.closing(text.usage())
            body += DONE
        return body

    def fail(self, reason: str) -> None:
        """See :class:`~penstock.server.recipient.Recipient`."""
        self.failure = reason
        self.leave()

    def leave(self) -> None:
        """Nothing more is to be written."""
        if not self._end.done():
            self._end.set_result(None)

    async def ended(self) -> None:
        """Wait until everything is written, or nothing more will be."""
        await self._end
