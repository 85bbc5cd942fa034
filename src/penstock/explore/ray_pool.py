"""The same executor on Ray: ``ray start --head`` elsewhere and an address, or a Ray of its own on this machine."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Generic

from penstock.errors import Problem, UserError
from penstock.explore.pool import ATTEMPTS, DIED, JobT, Lineup, Lost, ResultT, attempt

LOCAL = "local"
_AHEAD = 2
"""Jobs in flight per CPU: enough that none waits for the next, few enough that a loss costs little."""


def check_ray() -> None:
    """Whether Ray can be used here.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError([Problem("--ray", 'Ray is not installed: pip install "penstock[ray]"')])


class RayPool(Generic[JobT, ResultT]):
    """Tasks of one CPU each. ``address`` None starts Ray in this process with ``workers`` CPUs; "auto" or
    ``host:port`` joins a cluster, whose nodes need the same Penstock and the same files."""

    def __init__(
        self, evaluate: Callable[[JobT], ResultT], *, address: str | None = None, workers: int = 1
    ) -> None:
        check_ray()
        self._evaluate = evaluate
        self._address = None if address == LOCAL else address
        self._workers = workers
        self._ray: Any = None
        self._task: Any = None
        self._shared: Any = None
        self._ours = False

    def __enter__(self) -> RayPool[JobT, ResultT]:
        import ray  # pyright: ignore[reportMissingImports]

        self._ray = ray
        if not ray.is_initialized():
            self._ours = True
            quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
            if self._address is None:
                # Named so, Ray starts a cluster of its own even where another one is running.
                ray.init(address="local", num_cpus=self._workers, include_dashboard=False, **quiet)
            else:
                self._join(ray, quiet)
        self._task = ray.remote(num_cpus=1, max_retries=0)(attempt)
        self._shared = ray.put(self._evaluate)
        return self

    def _join(self, ray: Any, quiet: dict[str, Any]) -> None:
        try:
            ray.init(address=self._address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            message = f"no Ray cluster at {self._address}: {error}"
            raise UserError([Problem("--ray", message)]) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            self._ray.shutdown()

    def run(self, jobs: Sequence[JobT]) -> Iterator[tuple[int, ResultT | Lost]]:
        """See :class:`penstock.explore.pool.Executor`."""
        todo = Lineup(jobs)
        in_flight: dict[Any, int] = {}
        cpus = max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        try:
            while todo.look() or in_flight:
                while todo.waiting and len(in_flight) < cpus * _AHEAD:
                    index = todo.waiting.popleft()
                    in_flight[self._task.remote(self._shared, jobs[index])] = index
                ready, _ = self._ray.wait(list(in_flight))
                for reference in ready:
                    index = in_flight.pop(reference)
                    try:
                        yield index, self._ray.get(reference)
                    except self._ray.exceptions.RayError:
                        todo.deaths[index] += 1
                        if todo.deaths[index] >= ATTEMPTS:
                            yield index, DIED
                        else:
                            todo.waiting.append(index)
        finally:
            for reference in in_flight:
                self._ray.cancel(reference, force=True)
