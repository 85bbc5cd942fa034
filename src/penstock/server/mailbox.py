"""Tokens on their way from the simulated engine to the client of one HTTP request."""

from __future__ import annotations

import asyncio


class Mailbox:
    """A :class:`~penstock.server.recipient.Recipient` that holds tokens until the request's coroutine takes them,
    ``batch`` or more at a time; one coroutine waits at a time.

    A token is (sequence, due_ns): which of the request's sequences it belongs to, and when it left the simulated
    engine. ``failure`` says why nothing more will come; ``has_left`` that nobody reads any more.
    """

    __slots__ = ("_batch", "_loop", "_tokens", "_waiter", "failure", "has_left")

    def __init__(self, batch: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._batch = batch
        self._tokens: list[tuple[int, int]] = []
        self._waiter: asyncio.Future[None] | None = None
        self.failure: str | None = None
        self.has_left = False

    def put(self, sequence: int, due_ns: int) -> None:
        """A token has come."""
        self._tokens.append((sequence, due_ns))

    def flush(self) -> None:
        """Wake who waits, where there are enough."""
        if len(self._tokens) >= self._batch:
            self._wake()

    def fail(self, reason: str) -> None:
        """Nothing more will come."""
        self.failure = reason
        self._wake()

    def leave(self) -> None:
        """The client has gone."""
        self.has_left = True
        self._wake()

    async def take(self) -> list[tuple[int, int]]:
        """All tokens that have come since the last call; waits for ``batch``. Fewer once nothing more will come."""
        while not (len(self._tokens) >= self._batch or self.has_left or self.failure is not None):
            self._waiter = self._loop.create_future()
            await self._waiter
        tokens, self._tokens = self._tokens, []
        return tokens

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
