"""One HTTP request for answers, from the checked body to the last token."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from penstock.server.answers import Answer
from penstock.server.errors import ApiError
from penstock.server.formats import DONE, AnswerFormat, Usage, error_line
from penstock.server.lateness import Lateness
from penstock.server.live import LiveCluster, Wanted
from penstock.server.mailbox import Mailbox
from penstock.server.pieces import Pieces

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

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts, each once."""
        return sum(map(len, self.prompts))


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
        self._pieces = pieces
        self._lateness = lateness
        self._taken = [0] * len(generation.answers)
        self._left = sum(len(answer.ids) for answer in generation.answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        mailbox = Mailbox()
        numbers = self._cluster.submit(self._generation.wanted(), mailbox, self._generation.received_ns)
        watch = asyncio.create_task(_leave_with_client(receive, mailbox))
        try:
            if self._generation.streams:
                await self._stream(mailbox, send)
            else:
                await self._answer_at_once(mailbox, scope, receive, send)
        finally:
            watch.cancel()
            if self._left:
                self._cluster.abort(numbers)

    async def _stream(self, mailbox: Mailbox, send: Send) -> None:
        generation = self._generation
        clock = self._cluster.clock
        opening = self._style.opening(len(generation.answers))
        await send(_STREAM_START)
        while self._left and (tokens := await mailbox.take()):
            body = opening + self._chunks(tokens)
            opening = b""
            if not self._left:
                if generation.usage:
                    body += self._style.closing(self._usage())
                body += DONE
            await send({"type": "http.response.body", "body": body, "more_body": self._left > 0})
            self._lateness.note(tokens, clock.now_ns())
        if mailbox.failure is not None and self._left:
            body = error_line(_failure(mailbox.failure).body()) + DONE
            await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer_at_once(self, mailbox: Mailbox, scope: Scope, receive: Receive, send: Send) -> None:
        generation = self._generation
        while self._left and (tokens := await mailbox.take()):
            self._left -= len(tokens)
            for sequence, _ in tokens:
                self._taken[sequence] += 1
            if not self._left:
                texts = [self._text(place, 0, len(one.ids)) for place, one in enumerate(generation.answers)]
                reasons = [answer.finish_reason for answer in generation.answers]
                body = self._style.whole(list(zip(texts, reasons, strict=True)), self._usage())
                await JSONResponse(body)(scope, receive, send)
                self._lateness.note(tokens[-1:], self._cluster.clock.now_ns())
        if mailbox.failure is not None and self._left:
            await _failure(mailbox.failure).response()(scope, receive, send)

    def _chunks(self, tokens: Sequence[tuple[int, int]]) -> bytes:
        """Tokens that have come: a chunk for each sequence, which holds several tokens where the server is late."""
        if len(tokens) == 1:
            return self._chunk(tokens[0][0], 1)
        counts: dict[int, int] = {}
        for sequence, _ in tokens:
            counts[sequence] = counts.get(sequence, 0) + 1
        return b"".join(self._chunk(sequence, count) for sequence, count in counts.items())

    def _chunk(self, sequence: int, count: int) -> bytes:
        answer = self._generation.answers[sequence]
        start = self._taken[sequence]
        stop = self._taken[sequence] = start + count
        self._left -= count
        ids = answer.ids
        if count == 1 and (start or not self._generation.echoes):
            text = self._pieces.escaped(ids[start])
        else:
            text = self._pieces.escape(self._text(sequence, start, stop))
        usage = self._usage() if self._generation.running_usage else None
        return self._style.chunk(sequence, text, answer.finish_reason if stop == len(ids) else None, usage)

    def _text(self, sequence: int, start: int, stop: int) -> str:
        generation = self._generation
        text = self._pieces.text(generation.answers[sequence].ids[start:stop])
        if generation.echoes and not start:
            return self._pieces.text(generation.prompts[sequence // generation.n]) + text
        return text

    def _usage(self) -> Usage:
        return Usage(self._generation.prompt_tokens, sum(self._taken))


async def _leave_with_client(receive: Receive, mailbox: Mailbox) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    mailbox.leave()


def _failure(reason: str) -> ApiError:
    return ApiError(reason, status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="InternalServerError")
