"""Errors to exit codes: a user never sees a traceback for a mistake of their own."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from penstock.errors import NoProgressError, UserError

EXIT_NO_PROGRESS = 1
EXIT_USER_ERROR = 2
EXIT_BROKEN_PIPE = 141
EXIT_SIGNAL = 128
"""Added to the signal's number, as shells do: 130 for Ctrl-C, 143 for ``kill``."""

_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_OURS_TO_TAKE = (signal.SIG_DFL, signal.default_int_handler)


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
        for problem in dict.fromkeys(map(str, error.problems)):
            _complain(f"error: {_short(problem)}")
        raise SystemExit(EXIT_USER_ERROR) from None
    except NoProgressError as error:
        _complain(f"error: {error}")
        raise SystemExit(EXIT_NO_PROGRESS) from None
    except KeyboardInterrupt as error:
        _interrupted(error)
    except BrokenPipeError:
        _abandon_stdout()
        raise SystemExit(EXIT_BROKEN_PIPE) from None
    except OSError as error:
        place = f" {error.filename!r}" if error.filename else ""
        _complain(_short(f"error: cannot read or write{place}: {error.strerror or error}"))
        _abandon_stdout()
        raise SystemExit(EXIT_USER_ERROR) from None
    except MemoryError:
        _complain("error: the memory is full: a smaller workload, --record requests or --no-itl takes less")
        raise SystemExit(EXIT_USER_ERROR) from None
    except Exception:
        # A library that was called back may tell an interrupt in words of its own.
        if _asked is not None:
            _interrupted(Terminated(_asked))
        raise


_asked: int | None = None
"""The signal that has asked this process to end, while :func:`orderly_end` is at work."""


@contextmanager
def orderly_end() -> Generator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP raise :class:`Terminated` here, once, where that can be caught.

    Inside an import, or in code that the interpreter calls by itself, an exception is lost or told as another one, and
    a second signal means that the first one's end takes too long: then the process ends at once, and only temporary
    files are removed.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = {number: signal.getsignal(number) for number in _ENDING}
    taken = {number: before for number, before in taken.items() if before in _OURS_TO_TAKE}
    home = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        global _asked
        if os.getpid() != home:
            signal.signal(number, signal.SIG_DFL)  # a forked worker has nothing to clear away
            os.kill(os.getpid(), number)
            return
        if _asked is not None or _is_importing(frame):
            end_now(number)
        _asked = number
        raise Terminated(number)

    def unraisable(told: object, /) -> None:
        if isinstance(getattr(told, "exc_value", None), Terminated):
            end_now(_asked or signal.SIGINT)
        sys.__unraisablehook__(told)  # pyright: ignore[reportArgumentType]

    hook = sys.unraisablehook
    for number in taken:
        signal.signal(number, end)
    sys.unraisablehook = unraisable
    try:
        yield
    except SystemExit:
        if _asked is None:
            raise
    finally:
        asked = _asked
        for number, before in taken.items():
            signal.signal(number, before)
        sys.unraisablehook = hook
        _asked = None
    if asked is not None:  # whatever became of it on its way up
        raise SystemExit(EXIT_SIGNAL + asked)


def end_now(number: int) -> NoReturn:
    """End without unwinding: temporary files are removed, workers end with their pipe.

    Nothing is imported here: the import that was interrupted may be of the very module that writes, which has then
    written nothing.
    """
    remove = getattr(sys.modules.get("penstock.files.writing"), "remove_temporaries", None)
    if remove is not None:
        remove()
    _complain("interrupted")
    os._exit(EXIT_SIGNAL + number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _interrupted(error: KeyboardInterrupt) -> NoReturn:
    _complain("interrupted")
    number = error.number if isinstance(error, Terminated) else signal.SIGINT
    raise SystemExit(EXIT_SIGNAL + number) from None


def flush_stdout() -> None:
    """What is still to be written is written while its failure can be told."""
    with suppress(ValueError, AttributeError):  # closed
        sys.stdout.flush()


def plain_streams() -> None:
    """Characters that a terminal does not have are shown as escapes, not as a failure; restored by nobody."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def _short(text: str) -> str:
    """A message on a few lines of a terminal: who gives a name of thousands of letters knows it."""
    return text if len(text) <= 1000 else f"{text[:600]} ... {text[-300:]}"


def _complain(text: str) -> None:
    with suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _abandon_stdout() -> None:
    """The interpreter flushes stdout once more on its way out, which must not fail again."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
