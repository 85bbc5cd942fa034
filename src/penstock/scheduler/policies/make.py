"""From a policy's name in the cluster config to the policy."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from penstock.errors import Problem, UserError, nearest
from penstock.scheduler.policies.caps import DecodeCap, RequestCap
from penstock.scheduler.policies.checked import CheckedPolicy
from penstock.scheduler.policies.gllm import TokenThrottling
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.policies.sglang import DynamicChunks, Slots
from penstock.spec.choice import named

PrefillTime = Callable[[int, int], int]
"""Time of the slowest stage for a chunk of so many tokens after so many others, in ns."""

_POLICIES: dict[str, Callable[..., Policy]] = {
    "decode-cap": DecodeCap,
    "all-cap": RequestCap,
    "gllm": TokenThrottling,
    "sglang": Slots,
    "sglang-dynamic": DynamicChunks,
}
POLICY_NAMES = ("vllm", *_POLICIES)
_CALL = re.compile(r"(?P<name>[\w.:-]+?)(\((?P<arguments>[^()]*)\))?")


def make_policy(text: Any, pp_size: int, prefill_ns: PrefillTime) -> Policy | None:
    """The policy that ``text`` asks for: ``decode-cap``, with arguments ``sglang(micro_batch=32)``, or a class of
    the user's ``package.module:Class``, made with ``pp_size``. None for vLLM's own rule. A class or function itself is
    called with ``pp_size``; an object is copied, so that each instance has its own.

    Raises:
        UserError: no such policy, or arguments that it does not take.
    """
    if not isinstance(text, str):
        return CheckedPolicy(_own(text, pp_size), named(text))
    match = _CALL.fullmatch(text.strip())
    name = match["name"] if match else text
    arguments = _parse_arguments(text, match["arguments"] or "") if match else {}
    if name == "vllm":
        if arguments:
            raise _problem(text, f"vllm takes no arguments, but '{next(iter(arguments))}' is given")
        return None
    maker = _POLICIES.get(name) or _find(name)
    if maker is None:
        raise _problem(
            text,
            f"no policy '{name}' ({', '.join(POLICY_NAMES)} or module:Class){nearest(name, POLICY_NAMES)}",
        )
    unknown = _unknown_argument(maker, arguments)
    if unknown is not None:
        raise _problem(text, f"{name} {unknown}")
    if maker is DynamicChunks:
        arguments["prefill_ns"] = prefill_ns
    try:
        policy = maker(pp_size, **arguments)
    except (Exception, SystemExit) as error:  # whatever the user's class raises is the user's to mend
        raise _problem(text, f"cannot make {name}: {type(error).__name__}: {error}") from error
    if not callable(getattr(policy, "limits", None)):
        raise _problem(text, f"{name} has no method limits(view)")
    return policy if name in _POLICIES else CheckedPolicy(policy, name)


def _unknown_argument(maker: Callable[..., Policy], arguments: Mapping[str, Any]) -> str | None:
    """What a policy of ours does not take; a user's class says it itself."""
    if maker not in _POLICIES.values():
        return None
    takes = [name for name in inspect.signature(maker).parameters if name not in ("pp_size", "prefill_ns")]
    unknown = next((name for name in arguments if name not in takes), None)
    if unknown is None:
        return None
    return f"has no argument '{unknown}'{nearest(unknown, takes)} ({', '.join(takes)})"


def _own(given: Any, pp_size: int) -> Policy:
    """A policy of the user's class, function or object.

    Raises:
        UserError: it cannot be made, or is none.
    """
    try:
        policy: Any = given(pp_size) if callable(given) else copy.deepcopy(given)
    except (Exception, SystemExit) as error:  # whatever the user's class raises is the user's to mend
        raise _problem(named(given), f"cannot be made: {type(error).__name__}: {error}") from error
    if not callable(getattr(policy, "limits", None)):
        raise _problem(named(given), "has no method limits(view)")
    return policy


def _problem(text: str, message: str) -> UserError:
    return UserError([Problem(f"policy '{text}'", message)])


def _parse_arguments(text: str, arguments: str) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in arguments.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        try:
            number = float(value)
        except ValueError:
            equals = ""
            number = 0.0
        if not equals or not key.isidentifier() or not 0 <= number < float("inf"):
            raise _problem(text, f"'{part}' is not an argument: write name=number")
        if key in parsed:
            raise _problem(text, f"'{key}' is given twice")
        parsed[key] = int(number) if number.is_integer() else number
    return parsed


def _find(name: str) -> Callable[..., Policy] | None:
    """A policy from an entry point, or the user's own class."""
    for entry in entry_points(group="penstock.policies"):
        if entry.name == name:
            return entry.load()
    module_name, colon, class_name = name.partition(":")
    if not colon:
        return None
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises is the user's to mend
        raise _problem(name, f"cannot import it: {error}") from error
