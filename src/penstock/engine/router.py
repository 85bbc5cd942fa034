"""Which instance serves a request.

A router sees each arriving request and a read-only :class:`Fleet`, and returns an index and a reason. It is
made anew for every run. Beside the names of ``ROUTERS``, any class with the same ``route`` method can be named:
by an entry point of the group ``penstock.routers``, or as ``module:Class``. A class whose constructor takes
``seed`` is given the run's.

========= ================================================= ==================================================
name      chooses                                           wins when
========= ================================================= ==================================================
LOAD      lowest (4 waiting + running) / max_num_seqs       requests are alike; replicas may differ in size
RR        each instance in turn                             requests are alike and arrive evenly
RAND      at random                                         never; the yardstick for the others
P2C       the less loaded of two drawn at random            many routers act on the same, old figures
LOT       fewest outstanding tokens                         lengths differ much: counts of requests mislead
PREFIX    who has seen most of the prompt, unless too busy  prompts share long prefixes and the cache is on
========= ================================================= ==================================================
"""

from __future__ import annotations

import copy
import importlib
import inspect
import operator
import random
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from penstock.engine.fleet import Fleet
from penstock.errors import Problem, UserError, nearest
from penstock.spec.choice import named
from penstock.units import Int64Array
from penstock.workload.request import Request

ENTRY_POINT_GROUP = "penstock.routers"


class Router(Protocol):
    """One method; it may keep state between calls."""

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """The index of the instance to serve ``request``, and why."""
        ...


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a router will choose, said before the run: ``first`` of the instances for each request if ``by`` is
    "given", the less loaded of ``first`` and ``second`` if "better of two", shape (requests,). By "load" and "least
    tokens" it chooses as :class:`LoadRouter` and :class:`LeastTokensRouter` do."""

    by: Literal["given", "load", "least tokens", "better of two"]
    first: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    second: Int64Array = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


class LoadRouter:
    """LLMServingSim's LOAD: the lowest (4 waiting + running) / max_num_seqs; ties go round from the last
    choice."""

    def __init__(self) -> None:
        self._last = -1

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`."""
        scores = (4 * instances.num_waiting + instances.num_running) / instances.max_num_seqs
        self._last = lowest_from(scores, self._last + 1)
        return self._last, "lowest load"

    def foresee(self, requests: int, instances: int) -> Foreseen:
        """Of all requests of a run, none of which has come yet."""
        return Foreseen("load")


class RoundRobinRouter:
    """RR: each instance in turn."""

    def __init__(self) -> None:
        self._last = -1

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`."""
        self._last = (self._last + 1) % len(instances)
        return self._last, "next in turn"

    def foresee(self, requests: int, instances: int) -> Foreseen:
        """Of all requests of a run, none of which has come yet."""
        return Foreseen("given", np.arange(requests, dtype=np.int64) % instances)


class RandomRouter:
    """RAND: uniformly at random, seeded."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`."""
        return self._random.randrange(len(instances)), "at random"

    def foresee(self, requests: int, instances: int) -> Foreseen:
        """Of all requests of a run, none of which has come yet."""
        draw = self._random.randrange
        return Foreseen("given", np.fromiter((draw(instances) for _ in range(requests)), np.int64, requests))


class PowerOfTwoRouter:
    """P2C: of two instances drawn at random, the one with the lower LOAD score; the first drawn if equal.

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (1996).
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`."""
        first, second = self._draw(len(instances))
        better = second if _load(instances, second) < _load(instances, first) else first
        return better, f"less loaded of {first} and {second}"

    def foresee(self, requests: int, instances: int) -> Foreseen:
        """Of all requests of a run, none of which has come yet."""
        drawn = np.array([self._draw(instances) for _ in range(requests)], dtype=np.int64).reshape(-1, 2)
        return Foreseen("better of two", *(np.ascontiguousarray(column) for column in drawn.T))

    def _draw(self, instances: int) -> tuple[int, int]:
        first = self._random.randrange(instances)
        second = self._random.randrange(instances - 1)
        return first, second + (second >= first)


class LeastTokensRouter:
    """LOT: the fewest input and output tokens of requests not finished; ties go round from the last choice.

    It knows the lengths of answers, as no real router does: a bound on what guessing them could gain.
    """

    def __init__(self) -> None:
        self._last = -1

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`."""
        self._last = lowest_from(instances.outstanding_tokens, self._last + 1)
        return self._last, "fewest outstanding tokens"

    def foresee(self, requests: int, instances: int) -> Foreseen:
        """Of all requests of a run, none of which has come yet."""
        return Foreseen("least tokens")


class PrefixRouter:
    """PREFIX: the instance that was last sent the longest prefix of this prompt, while its outstanding tokens
    are at most ``MAX_IMBALANCE`` times the mean and the prompt's own; else as LOT. As SGLang's cache-aware
    policy (``sgl-router: policies/cache_aware.rs``), which keeps a tree per worker where this keeps hashes.
    """

    BLOCK_TOKENS = 64
    MAX_BLOCKS = 1 << 20
    MAX_IMBALANCE = 1.5

    def __init__(self) -> None:
        self._seen_by: OrderedDict[int, int] = OrderedDict()
        self._fallback = LeastTokensRouter()

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`."""
        blocks = self._blocks(request)
        seen = (self._seen_by[block] for block in reversed(blocks) if block in self._seen_by)
        known = next((index for index in seen if index < len(instances)), None)
        outstanding = instances.outstanding_tokens
        if known is not None:
            limit = self.MAX_IMBALANCE * (float(outstanding.mean()) + request.input_tokens)
            chosen, reason = known, "has the longest prefix"
            if outstanding[known] > limit:
                chosen, reason = self._fallback.route(request, instances)
        else:
            chosen, reason = self._fallback.route(request, instances)
        for block in blocks:
            self._seen_by[block] = chosen
            self._seen_by.move_to_end(block)
        while len(self._seen_by) > self.MAX_BLOCKS:
            self._seen_by.popitem(last=False)
        return chosen, reason

    def _blocks(self, request: Request) -> list[int]:
        """A number for each prefix of whole blocks: hashes of integers, the same in every process."""
        ids = request.input_ids
        if ids is None:
            return []
        size, hashes, above = self.BLOCK_TOKENS, list[int](), 0
        for start in range(0, len(ids) - size + 1, size):
            above = hash((above, *ids[start : start + size]))
            hashes.append(above)
        return hashes


def foreseen(router: Router, requests: int, instances: int) -> Foreseen | None:
    """What ``router`` will choose for all requests of a run, to be asked instead of ``route``; None where it has to see
    them come."""
    if isinstance(
        router, LoadRouter | RoundRobinRouter | RandomRouter | PowerOfTwoRouter | LeastTokensRouter
    ):
        return router.foresee(requests, instances)
    return None


def _load(instances: Fleet, index: int) -> float:
    view = instances[index]
    return (4 * view.num_waiting + view.num_running) / view.max_num_seqs


def lowest_from(scores: np.ndarray[Any, np.dtype[Any]], start: int) -> int:
    """The index of the lowest score, the first one met going round from ``start`` if several are equal."""
    start %= len(scores)
    if not start:
        return int(scores.argmin())
    behind = start + int(scores[start:].argmin())
    ahead = int(scores[:start].argmin())
    return ahead if scores[ahead] < scores[behind] else behind


ROUTERS: dict[str, Callable[..., Router]] = {
    "LOAD": LoadRouter,
    "RR": RoundRobinRouter,
    "RAND": RandomRouter,
    "P2C": PowerOfTwoRouter,
    "LOT": LeastTokensRouter,
    "PREFIX": PrefixRouter,
}


class CheckedRouter:
    """A user's router whose mistakes are told as such, before they reach the engine."""

    def __init__(self, router: Router, name: str, where: str) -> None:
        self.router = router
        self._name = name
        self._where = where

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        """See :class:`Router`.

        Raises:
            UserError: it raised, or returned something else than the index of an instance and a reason.
        """
        try:
            answer: Any = self.router.route(request, instances)
        except Exception as error:  # whatever the user's class raises is the user's to mend
            raise self._problem(
                request, f"raised {type(error).__name__}: {error}{_line_of(error)}"
            ) from error
        try:
            index, reason = answer
            chosen = operator.index(index)
        except (TypeError, ValueError):
            expected = "expected an instance's index and a reason"
            raise self._problem(request, f"returned {_short(answer)}, {expected}") from None
        if isinstance(index, bool) or not 0 <= chosen < len(instances):
            raise self._problem(request, f"chose instance {index} of {len(instances)} (from 0)")
        return chosen, str(reason)

    def _problem(self, request: Request, message: str) -> UserError:
        return UserError(
            [Problem(self._where, f"{self._name}, asked for request {request.index}, {message}")]
        )


def _line_of(error: Exception) -> str:
    """Where in the user's file it was raised."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def make_router(given: Any, seed: int, where: str = "--router") -> Router:
    """A router by its name (in any case), its entry point, as ``module:Class``, as a class, or as an object, of which
    each run has a copy; ``where`` names the option.

    Raises:
        UserError: no such router, or the class cannot be imported or made.
    """
    name = named(given)
    factory: Callable[..., Any] | None = ROUTERS.get(name.upper())
    own = factory is None
    if not isinstance(given, str):
        factory = _maker(given)
    try:
        if factory is None:
            factory = _imported(name) if ":" in name else _entry_point(name, where)
        takes_seed = "seed" in inspect.signature(factory).parameters
        router: Any = factory(seed=seed) if takes_seed else factory()
    except UserError:
        raise
    except Exception as error:  # whatever the user's module raises is the user's to mend
        message = f"cannot make {name}: {type(error).__name__}: {error}"
        raise UserError([Problem(where, message)]) from error
    if not callable(getattr(router, "route", None)):
        raise UserError([Problem(where, f"{name} has no method route(request, instances)")])
    return CheckedRouter(router, name, where) if own else router


def _maker(given: Any) -> Callable[..., Any]:
    """A class or function itself, or what copies an object."""
    return given if callable(given) else lambda: copy.deepcopy(given)


def _imported(name: str) -> Callable[..., Any]:
    module_name, _, class_name = name.partition(":")
    return getattr(importlib.import_module(module_name), class_name)


def _entry_point(name: str, where: str) -> Callable[..., Any]:
    from importlib.metadata import entry_points

    found = entry_points(group=ENTRY_POINT_GROUP)
    for entry in found:
        if entry.name == name:
            return entry.load()
    known = [*ROUTERS, *(entry.name for entry in found)]
    hint = nearest(name.upper(), known)
    raise UserError([Problem(where, f"no router '{name}' ({', '.join(known)} or module:Class){hint}")])
