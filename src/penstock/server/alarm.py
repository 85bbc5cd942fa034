"""A callback at a moment, to some tens of microseconds where the system can: event loops' own timers count
milliseconds, and round up."""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from penstock.units import NS_PER_MS, NS_PER_S

_NONBLOCK = os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0)


class _Spec(ctypes.Structure):
    """``struct itimerspec``: the interval, which stays 0, and the wait, in seconds and nanoseconds each."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("wait_s", ctypes.c_long),
        ("wait_ns", ctypes.c_long),
    )


class Alarm:
    """Calls ``ring`` on the running event loop once, some time after :meth:`set`, a later call of which counts instead.

    It waits on a timer of the kernel (``timerfd_create(2)``) where there is one, else on the loop's.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._spec = _Spec()
        self._libc: Any = None
        self._timer = -1
        if sys.platform == "linux" and ctypes.sizeof(ctypes.c_long) == 8:
            libc = ctypes.CDLL(None, use_errno=True)
            self._timer = libc.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK)
            if self._timer >= 0:
                self._libc = libc
                self._loop.add_reader(self._timer, self._timer_ran_out)

    def set(self, wait_ns: int) -> None:
        """Ring after ``wait_ns``, at the next turn of the loop where that is not above 0."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._libc is not None:
            self._start(max(wait_ns, 0))
            if wait_ns <= 0:
                self._handle = self._loop.call_soon(self._ring)
        else:
            self._handle = self._loop.call_later(max(math.ceil(wait_ns / NS_PER_MS), 0) / 1000, self._ring)

    def unset(self) -> None:
        """Do not ring."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._libc is not None:
            self._start(0)

    def close(self) -> None:
        """Never ring again."""
        self.unset()
        if self._libc is not None:
            self._libc = None
            self._loop.remove_reader(self._timer)
            os.close(self._timer)

    def _start(self, wait_ns: int) -> None:
        """Let the kernel's timer run; 0 stops it, and takes back that it has run out."""
        self._spec.wait_s, self._spec.wait_ns = divmod(wait_ns, NS_PER_S)
        self._libc.timerfd_settime(self._timer, 0, ctypes.byref(self._spec), None)

    def _timer_ran_out(self) -> None:
        try:
            os.read(self._timer, 8)
        except BlockingIOError:  # it was set again meanwhile
            return
        self._ring()
