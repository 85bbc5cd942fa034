"""Errors to exit codes: a user never sees a traceback for a mistake of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import typer

from penstock.errors import NoProgressError, UserError

EXIT_NO_PROGRESS = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


@contextmanager
def exit_codes() -> Generator[None]:
    """Print what went wrong on stderr and leave: 2 for the user's mistakes, one line each; 1 for a
    simulation that cannot go on; 130 for Ctrl-C; 141 if nobody reads the output any more."""
    try:
        yield
    except UserError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        raise typer.Exit(EXIT_USER_ERROR) from None
    except NoProgressError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_NO_PROGRESS) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        # The interpreter flushes stdout once more on its way out, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_BROKEN_PIPE) from None
