"""Errors as vLLM answers them (``entrypoints/serve/exception_handling``)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

_MAX_REPORTED = 10
_MAX_CHARS = 200


class ApiError(Exception):
    """An answer other than the one asked for. ``kind`` is vLLM's ``type``, ``param`` the field at fault."""

    def __init__(
        self,
        message: str,
        *,
        status: HTTPStatus = HTTPStatus.BAD_REQUEST,
        kind: str = "BadRequestError",
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON of it."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": int(self.status)}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body(), status_code=int(self.status))


def unreadable(message: str, param: str | None = None) -> ApiError:
    """The body is not what the endpoint takes: pydantic's errors are of this kind in vLLM."""
    return ApiError(message, kind=HTTPStatus.BAD_REQUEST.phrase, param=param)


def from_validation(error: ValidationError) -> ApiError:
    """What pydantic found, bounded in size as vLLM bounds it."""
    found = error.errors(include_url=False, include_context=False)
    label = "error" if len(found) == 1 else "errors"
    lines = [f"{len(found)} validation {label}:"]
    for one in found[:_MAX_REPORTED]:
        place = ("body", *one["loc"])
        lines.append(
            f"  {{'type': '{one['type']}', 'loc': {place}, 'msg': {one['msg']!r}, 'input': {_short(one['input'])}}}"
        )
    if len(found) > _MAX_REPORTED:
        lines.append(f"  ...and {len(found) - _MAX_REPORTED} more {label}")
    return unreadable("\n".join(lines), ".".join(map(str, found[0]["loc"])) or None)


def _short(value: Any) -> str:
    if isinstance(value, Sequence | dict) and not isinstance(value, str):
        return f"<{type(value).__name__} of {len(value)} items>"
    if isinstance(value, str) and len(value) > _MAX_CHARS:
        value = f"{value[:_MAX_CHARS]}...[truncated]"
    return repr(value)[: 2 * _MAX_CHARS]
