"""Who evaluates points: this process, local processes, or (``ray_pool``) a Ray cluster. All give the same results.

An executor is a context manager around one ``evaluate`` function, which must be picklable and deterministic. A
job whose worker dies is tried again elsewhere; after ``ATTEMPTS`` deaths, or an exception, its outcome is
:class:`Lost` and the others go on.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.process
import signal
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

ATTEMPTS = 3

JobT = TypeVar("JobT")
ResultT = TypeVar("ResultT")
JobIn = TypeVar("JobIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)


@dataclass(frozen=True, slots=True)
class Lost:
    """A job without a result, and why."""

    reason: str


DIED = Lost(f"the worker died on it {ATTEMPTS} times")


class Executor(Protocol[JobIn, ResultOut]):
    """Evaluates jobs, in any order."""

    def __enter__(self) -> Executor[JobIn, ResultOut]:
        """Start workers."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop workers, whatever they are doing."""
        ...

    def run(self, jobs: Sequence[JobIn]) -> Iterator[tuple[int, ResultOut | Lost]]:
        """(index of the job, its outcome), each as soon as it is known. Who takes them may append to the jobs until the
        last outcome is taken: what an outcome leads to need not wait for the others."""
        ...


def lost_to(error: BaseException) -> Lost:
    """The outcome of a job that raised: the same words wherever it ran."""
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(place[-1].filename).name}:{place[-1].lineno})" if place else ""
    return Lost(f"{type(error).__name__}: {error}{where}")


class InProcess(Generic[JobT, ResultT]):
    """Everything here, one after another."""

    def __init__(self, evaluate: Callable[[JobT], ResultT]) -> None:
        self._evaluate = evaluate

    def __enter__(self) -> InProcess[JobT, ResultT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to stop."""

    def run(self, jobs: Sequence[JobT]) -> Iterator[tuple[int, ResultT | Lost]]:
        """See :class:`Executor`."""
        for index, job in enumerate(jobs):
            yield index, attempt(self._evaluate, job)


@dataclass(slots=True, eq=False)
class _Worker:
    """A process, our end of its pipe, and the job it is at."""

    process: multiprocessing.process.BaseProcess
    pipe: multiprocessing.connection.Connection[Any, Any]
    job: int | None = None


@dataclass(slots=True)
class Lineup(Generic[JobT]):
    """The jobs of one call of ``run``: ``known`` of them were waiting or further at the last look."""

    jobs: Sequence[JobT]
    waiting: deque[int] = field(default_factory=deque[int])
    known: int = 0
    deaths: Counter[int] = field(default_factory=Counter[int])

    def look(self) -> bool:
        """Line up jobs that have come since; whether any waits."""
        self.waiting.extend(range(self.known, len(self.jobs)))
        self.known = len(self.jobs)
        return bool(self.waiting)


class LocalPool(Generic[JobT, ResultT]):
    """``workers`` processes, started with spawn: each imports Penstock anew and holds its own ``evaluate``.

    They ignore Ctrl-C, which is ours to handle, and end when their pipe does, so none outlives this process.
    """

    def __init__(self, evaluate: Callable[[JobT], ResultT], workers: int) -> None:
        self._evaluate = evaluate
        self._count = workers
        self._workers: list[_Worker] = []
        self._context = multiprocessing.get_context("spawn")

    def __enter__(self) -> LocalPool[JobT, ResultT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            self._end(worker)
        self._workers.clear()

    def run(self, jobs: Sequence[JobT]) -> Iterator[tuple[int, ResultT | Lost]]:
        """See :class:`Executor`."""
        todo = Lineup(jobs)
        while todo.look() or any(worker.job is not None for worker in self._workers):
            self._hand_out(todo)
            busy = [worker for worker in self._workers if worker.job is not None]
            ready = multiprocessing.connection.wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe in ready:
                    outcome = self._receive(worker, todo)
                    if outcome is not None:
                        yield outcome

    def _hand_out(self, todo: Lineup[JobT]) -> None:
        """A job for every worker that has none; workers are started when first needed."""
        while todo.waiting:
            idle = next((worker for worker in self._workers if worker.job is None), None)
            if idle is None:
                if len(self._workers) >= self._count:
                    return
                idle = self._start()
            index = todo.waiting[0]
            try:
                idle.pipe.send(todo.jobs[index])
            except OSError:  # it died while it had nothing to do: nobody's fault
                self._end(idle)
                self._workers.remove(idle)
                continue
            idle.job = todo.waiting.popleft()

    def _receive(self, worker: _Worker, todo: Lineup[JobT]) -> tuple[int, ResultT | Lost] | None:
        """The outcome of the worker's job, or None if the job goes back to wait."""
        index = cast("int", worker.job)
        try:
            outcome: ResultT | Lost = worker.pipe.recv()
        except (EOFError, OSError):
            self._end(worker)
            self._workers.remove(worker)
            todo.deaths[index] += 1
            if todo.deaths[index] >= ATTEMPTS:
                return index, DIED
            todo.waiting.append(index)
            return None
        worker.job = None
        return index, outcome

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=serve, args=(self._evaluate, theirs), daemon=True)
        with _without_interrupts():
            process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _end(self, worker: _Worker) -> None:
        # Ended first: one that sees its pipe close under an unread answer has an error to tell.
        worker.process.terminate()
        worker.process.join()
        worker.pipe.close()


@contextmanager
def _without_interrupts() -> Generator[None]:
    """A process that is started here never sees Ctrl-C, not even while it imports: the mask is inherited."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The tracker, when it is started, lets interrupts through again: it is started before they are held back.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(evaluate: Callable[[JobT], ResultT], pipe: multiprocessing.connection.Connection[Any, Any]) -> None:
    """A worker's life: jobs in, outcomes out, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(attempt(evaluate, job))
        except OSError:
            return


def attempt(evaluate: Callable[[JobT], ResultT], job: JobT) -> ResultT | Lost:
    """The job's result, or why it has none."""
    try:
        return evaluate(job)
    except Exception as error:  # one bad point must not end the search; its reason is reported
        return lost_to(error)
