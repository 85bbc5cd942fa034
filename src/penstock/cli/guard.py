"""Errors to exit codes: a user never sees a traceback for a mistake of their own."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

from penstock.errors import NoProgressError, UserError

EXIT_NO_PROGRESS = 1
EXIT_USER_ERROR = 2
EXIT_BROKEN_PIPE = 141
EXIT_SIGNAL = 128
"""Added to the signal's number, as shells do: 130 for Ctrl-C, 143 for ``kill``."""

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """The process is asked to end: as Ctrl-C, so that what is half-written is cleared away."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def exit_codes() -> Generator[None]:
    """Print what went wrong on stderr and leave: 2 for the user's mistakes, one line each, and for a standard
    output that cannot be written; 1 for a simulation that cannot go on; 130 for Ctrl-C (143 and 129 for SIGTERM
    and SIGHUP); 141 if nobody reads the output any more."""
    try:
        yield
    except UserError as error:
        for problem in error.problems:
            _complain(f"error: {problem}")
        raise SystemExit(EXIT_USER_ERROR) from None
    except NoProgressError as error:
        _complain(f"error: {error}")
        raise SystemExit(EXIT_NO_PROGRESS) from None
    except KeyboardInterrupt as error:
        _complain("interrupted")
        number = error.number if isinstance(error, Terminated) else signal.SIGINT
        raise SystemExit(EXIT_SIGNAL + number) from None
    except BrokenPipeError:
        _abandon_stdout()
        raise SystemExit(EXIT_BROKEN_PIPE) from None
    except OSError as error:
        place = f" {error.filename!r}" if error.filename else ""
        _complain(f"error: cannot read or write{place}: {error.strerror or error}")
        _abandon_stdout()
        raise SystemExit(EXIT_USER_ERROR) from None


@contextmanager
def orderly_end() -> Generator[None]:
    """Let SIGTERM and SIGHUP raise :class:`Terminated` here, where they would end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    home = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == home:
            raise Terminated(number)
        signal.signal(number, signal.SIG_DFL)  # a forked worker has nothing to clear away
        os.kill(os.getpid(), number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _complain(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr)


def _abandon_stdout() -> None:
    """The interpreter flushes stdout once more on its way out, which must not fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
