"""Which instance serves a request.

A router sees each arriving request and read-only views of all instances, and returns an index and a reason.
It is made anew for every run; any class with the same ``route`` method can be named as ``module:Class``.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from penstock.errors import Problem, UserError, nearest
from penstock.workload.request import Request


class InstanceView(Protocol):
    """What a router may know of an instance at the time of an arrival."""

    @property
    def index(self) -> int:
        """The instance's number."""
        ...

    @property
    def num_running(self) -> int:
        """Requests admitted and not finished."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests sent there and not admitted."""
        ...

    @property
    def max_num_seqs(self) -> int:
        """How many requests it runs at once."""
        ...

    @property
    def outstanding_tokens(self) -> int:
        """Input and output tokens of all requests sent there and not finished."""
        ...


class Router(Protocol):
    """One method; it may keep state between calls."""

    def route(self, request: Request, instances: Sequence[InstanceView]) -> tuple[int, str]:
        """The index of the instance to serve ``request``, and why."""
        ...


class LoadRouter:
    """LLMServingSim's LOAD: the lowest (4 waiting + running) / max_num_seqs; ties go round from the last
    choice."""

    def __init__(self) -> None:
        self._last = -1

    def route(self, request: Request, instances: Sequence[InstanceView]) -> tuple[int, str]:
        """See :class:`Router`."""
        count = len(instances)
        start = self._last + 1
        best = 0
        lowest = float("inf")
        for place in range(start, start + count):
            index = place % count
            view = instances[index]
            score = (4 * view.num_waiting + view.num_running) / view.max_num_seqs
            if score < lowest:
                lowest, best = score, index
                if not score:
                    break
        self._last = best
        return best, f"load {lowest:.3f}"


class RoundRobinRouter:
    """RR: each instance in turn."""

    def __init__(self) -> None:
        self._last = -1

    def route(self, request: Request, instances: Sequence[InstanceView]) -> tuple[int, str]:
        """See :class:`Router`."""
        self._last = (self._last + 1) % len(instances)
        return self._last, "next in turn"


class RandomRouter:
    """RAND: uniformly at random, seeded."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def route(self, request: Request, instances: Sequence[InstanceView]) -> tuple[int, str]:
        """See :class:`Router`."""
        return self._random.randrange(len(instances)), "at random"


ROUTERS: dict[str, Callable[[int], Router]] = {
    "LOAD": lambda seed: LoadRouter(),
    "RR": lambda seed: RoundRobinRouter(),
    "RAND": RandomRouter,
}


def make_router(name: str, seed: int) -> Router:
    """A router by its name, or as ``module:Class`` (constructed without arguments).

    Raises:
        UserError: no such router, or the class cannot be imported or made.
    """
    known = ROUTERS.get(name.upper())
    if known is not None:
        return known(seed)
    module_name, colon, class_name = name.partition(":")
    if not colon:
        hint = nearest(name.upper(), ROUTERS)
        raise UserError(
            [Problem("--router", f"no router '{name}' ({', '.join(ROUTERS)} or module:Class){hint}")]
        )
    try:
        router: Any = getattr(importlib.import_module(module_name), class_name)()
    except Exception as error:  # whatever the user's module raises is the user's to mend
        raise UserError([Problem("--router", f"cannot make {name}: {error}")]) from error
    if not callable(getattr(router, "route", None)):
        raise UserError([Problem("--router", f"{name} has no method route(request, instances)")])
    return router
