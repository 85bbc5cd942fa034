"""What the tests of executors evaluate; picklable, so that workers can import it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Square:
    """Squares numbers; some of them are troublesome. ``directory`` remembers attempts across processes."""

    directory: str
    dies_once: tuple[int, ...] = ()
    always_dies: tuple[int, ...] = ()
    raises: tuple[int, ...] = ()
    sleep_s: float = 0.0

    def __call__(self, number: int) -> int:
        time.sleep(self.sleep_s)
        if number in self.raises:
            raise ValueError(f"cannot square {number}")
        if number in self.always_dies or (number in self.dies_once and self._first_time(number)):
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    def _first_time(self, number: int) -> bool:
        try:
            Path(self.directory, str(number)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class KillsParent:
    """An evaluator whose parent process is killed when it comes to one point."""

    inner: Callable[[Any], Any]
    label: str

    def __call__(self, job: Any) -> Any:
        if job.point.label == self.label:
            os.kill(os.getppid(), signal.SIGKILL)
        return self.inner(job)
