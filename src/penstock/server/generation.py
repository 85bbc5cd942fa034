"""One HTTP request for answers, from the checked body to the last token."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from penstock.server.answer_text import AnswerText
from penstock.server.answers import Answer
from penstock.server.errors import ApiError
from penstock.server.formats import DONE, AnswerFormat, error_line
from penstock.server.lateness import Lateness
from penstock.server.live import LiveCluster, Wanted
from penstock.server.mailbox import Mailbox
from penstock.server.pieces import Pieces
from penstock.server.protocol import CONNECTION, ReceiptProtocol
from penstock.server.token_stream import TokenStream

_STREAM_START: dict[str, Any] = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What is to be generated for a request: ``prompts[i]`` has the answers from ``i * n`` on, ``n`` of them each.
    ``received_ns``: when the request had come in whole, in simulated time. ``echoes``: each answer begins with its
    prompt's text. ``usage``: a stream ends with the token counts;
    ``running_usage``: each chunk has them."""

    prompts: Sequence[array[int]]
    answers: Sequence[Answer]
    n: int
    max_tokens: int
    priority: int
    model: str | None
    received_ns: int
    streams: bool
    echoes: bool = False
    usage: bool = False
    running_usage: bool = False

    def wanted(self) -> list[Wanted]:
        """What the simulation is asked for."""
        return [
            Wanted(
                input_ids=self.prompts[place // self.n],
                output_ids=answer.ids,
                finish_reason=answer.finish_reason,
                n=self.n,
                max_tokens=self.max_tokens,
                priority=self.priority,
                model=self.model,
            )
            for place, answer in enumerate(self.answers)
        ]


class GenerationResponse:
    """An ASGI response that submits its requests when it is called and answers as their tokens come. A client that
    goes away aborts them."""

    def __init__(
        self,
        generation: Generation,
        style: AnswerFormat,
        cluster: LiveCluster,
        pieces: Pieces,
        lateness: Lateness,
    ) -> None:
        self._generation = generation
        self._style = style
        self._cluster = cluster
        self._lateness = lateness
        self._text = AnswerText(
            generation.prompts,
            generation.answers,
            generation.n,
            style,
            pieces,
            echoes=generation.echoes,
            counts=generation.running_usage,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if self._generation.streams:
            await self._stream(scope[CONNECTION], receive, send)
        else:
            await self._answer_at_once(scope, receive, send)

    async def _stream(self, connection: ReceiptProtocol, receive: Receive, send: Send) -> None:
        generation, cluster = self._generation, self._cluster
        stream = TokenStream(
            self._text, self._style, connection, cluster.clock, self._lateness, says_usage=generation.usage
        )
        await send(_STREAM_START)
        numbers = cluster.submit(generation.wanted(), stream, generation.received_ns)
        watch = asyncio.create_task(_leave_with_client(receive, stream))
        connection.when_writable = stream.flush
        try:
            await stream.ended()
            rest = b""
            if stream.failure is not None and self._text.left:
                rest = stream.rest() + error_line(_failure(stream.failure).body()) + DONE
            await send({"type": "http.response.body", "body": rest, "more_body": False})
        finally:
            connection.when_writable = None
            watch.cancel()
            if self._text.left:
                cluster.abort(numbers)

    async def _answer_at_once(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation, cluster, text = self._generation, self._cluster, self._text
        wanted = text.left
        mailbox = Mailbox(wanted)
        numbers = cluster.submit(generation.wanted(), mailbox, generation.received_ns)
        watch = asyncio.create_task(_leave_with_client(receive, mailbox))
        try:
            tokens = await mailbox.take()
            if len(tokens) == wanted:
                body = self._style.whole(text.whole(), text.usage())
                await JSONResponse(body)(scope, receive, send)
                self._lateness.note([tokens[-1][1]], cluster.clock.now_ns())
            elif mailbox.failure is not None:
                await _failure(mailbox.failure).response()(scope, receive, send)
        finally:
            watch.cancel()
            if text.left:
                cluster.abort(numbers)


class _Leaving(Protocol):
    def leave(self) -> None: ...


async def _leave_with_client(receive: Receive, reader: _Leaving) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.leave()


def _failure(reason: str) -> ApiError:
    return ApiError(reason, status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="InternalServerError")
