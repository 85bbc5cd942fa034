"""Files appear whole or not at all: written beside their place under a temporary name, then renamed."""

from __future__ import annotations

import gzip
import io
import os
import secrets
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from penstock.errors import Problem, UserError


@contextmanager
def atomic_write(path: str | Path) -> Generator[TextIO]:
    """Open ``path`` for UTF-8 text (``\\n`` ends a line); it appears when the block ends without error.

    A name ending in ``.gz`` is compressed. Missing parent directories are made. On an error, Ctrl-C included,
    the temporary file is removed and whatever stood at ``path`` stays as it was. A device or pipe
    (``/dev/stdout``) is written directly.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_write_bytes(path) as raw:
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="\n")
        try:
            yield text
            text.flush()
        finally:
            with suppress(OSError, ValueError):
                text.detach()


@contextmanager
def atomic_write_bytes(path: str | Path) -> Generator[BinaryIO]:
    """As :func:`atomic_write`, for bytes. The gzip header holds no time and no name: same input, same
    bytes."""
    target = Path(os.path.realpath(path))
    if target.exists() and not stat.S_ISREG(target.stat().st_mode) and not target.is_dir():
        with _explained(path), target.open("wb") as direct:
            yield direct
        return
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with _explained(path):
            if target.is_dir():
                raise IsADirectoryError(21, "Is a directory")
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as raw:
                if target.suffix == ".gz":
                    with gzip.GzipFile(
                        filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0
                    ) as packed:
                        yield cast("BinaryIO", packed)
                else:
                    yield raw
            temporary.replace(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def unwritable(path: str | Path) -> str | None:
    """Why ``path`` could not be written, or None: to refuse it before a run, not after. Makes nothing."""
    try:
        return _obstacle(path)
    except (OSError, ValueError) as error:  # too long a name, a null byte in it
        return str(getattr(error, "strerror", None) or error)


def _obstacle(path: str | Path) -> str | None:
    target = Path(os.path.realpath(path))
    if target.is_dir():
        return "is a directory"
    if target.exists() and not os.access(target, os.W_OK):
        return "no permission to write"
    parent = target.parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        return f"{parent} is not a directory"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"no permission to write in {parent}"


@contextmanager
def _explained(path: str | Path) -> Generator[None]:
    """Turn the operating system's refusal into the user's message."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has gone: not a mistake in what the user gave
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError([Problem(str(path), f"cannot be written: {reason}")]) from error
