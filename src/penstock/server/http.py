"""Between HTTP and handlers: bodies, and what a handler raises."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from penstock.server.errors import ApiError, from_validation, unreadable

MAX_BODY_BYTES = 32 * 2**20
BodyT = TypeVar("BodyT", bound=BaseModel)
Handler = Callable[[Request], Coroutine[Any, Any, ASGIApp]]


class Endpoint:
    """A handler as an ASGI application: what it raises is answered."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        try:
            response = await self._handler(Request(scope, receive))
        except ApiError as error:
            response = error.response()
        await response(scope, receive, send)


async def read_body(request: Request) -> bytes:
    """The body of a request; one that is too long is not read to its end.

    Raises:
        ApiError: it is too long, or not said to be JSON.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise unreadable("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise ApiError(
                f"The body is longer than {MAX_BODY_BYTES} bytes.",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                kind=HTTPStatus.REQUEST_ENTITY_TOO_LARGE.phrase,
            )
        parts.append(part)
    return b"".join(parts)


def parse_body(raw: bytes, kind: type[BodyT]) -> BodyT:
    """A body, checked.

    Raises:
        ApiError: it is not JSON, or not such a body.
    """
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from None


async def http_error(_request: Request, error: Exception) -> Response:
    """What Starlette refuses: an unknown path, a method that is not allowed."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return ApiError(error.detail, status=status, kind=status.phrase).response()


async def unexpected(_request: Request, error: Exception) -> Response:
    """A fault of the server's own."""
    return ApiError(
        str(error), status=HTTPStatus.INTERNAL_SERVER_ERROR, kind="InternalServerError"
    ).response()
