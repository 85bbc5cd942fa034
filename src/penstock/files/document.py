"""Documents that other programs wrote: a shape says what of them is needed, and the first things that are missing or
of the wrong kind are told by their places."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from penstock.errors import Problem, UserError
from penstock.files.json_text import shown_text

NOT_UNDERSTOOD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What code raises that works on figures which contradict each other."""


@contextmanager
def understood(shown: str, what: str) -> Generator[None]:
    """Tell figures that are each of the right kind, but cannot all be true, as a mistake of the file ``shown``.

    Raises:
        UserError: ``what`` could not be done with it.
    """
    try:
        yield
    except UserError:
        raise
    except NOT_UNDERSTOOD as error:
        told = shown_text(" ".join(f"{type(error).__name__}: {error}".split()))
        raise UserError([Problem(shown, f"{what}: its figures do not fit together ({told})")]) from error
