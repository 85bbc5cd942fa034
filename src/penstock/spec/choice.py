"""A policy or a router as users give it: a name, a class or function that makes one, or an object that is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator

from penstock.spec.check import shown


def _choice(method: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            if not value:
                raise ValueError("must not be empty")
            return value
        if value is None or callable(value) or callable(getattr(value, method, None)):
            return value
        raise ValueError(f"must be a name, a class, or an object with {method}(), not {shown(value)}")

    return check


PolicyChoice = Annotated[Any, BeforeValidator(_choice("limits"))]
RouterChoice = Annotated[Any, BeforeValidator(_choice("route"))]


def named(value: Any) -> str:
    """How a choice is called: itself if it is a name, else its class or function as ``module:Name``."""
    if isinstance(value, str):
        return value
    maker = value if hasattr(value, "__qualname__") else type(value)
    return f"{maker.__module__}:{maker.__qualname__}"
