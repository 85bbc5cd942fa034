"""Named pipes as inputs and outputs: who waits at the other end is waited for, but not for ever."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from pathlib import Path

PATIENCE_S = 5.0
_PAUSE_S = 0.02


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a pipe, named or not."""
    return Path(path).exists() and stat.S_ISFIFO(Path(path).stat().st_mode)


def open_to_read(path: str | os.PathLike[str]) -> int:
    """A descriptor of a pipe, once somebody writes to it.

    Raises:
        OSError: nobody does.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not select.select([descriptor], [], [], PATIENCE_S)[0]:
        os.close(descriptor)
        raise OSError(errno.EAGAIN, f"nobody has written to this pipe for {PATIENCE_S:g} s", os.fspath(path))
    os.set_blocking(descriptor, True)
    return descriptor


def open_to_write(path: str | os.PathLike[str]) -> int:
    """A descriptor of a pipe, once somebody reads it.

    Raises:
        OSError: nobody does.
    """
    last = time.monotonic() + PATIENCE_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > last:
                message = f"nobody has read this pipe for {PATIENCE_S:g} s"
                raise OSError(errno.ENXIO, message, os.fspath(path)) from None
            time.sleep(_PAUSE_S)
            continue
        os.set_blocking(descriptor, True)
        return descriptor
