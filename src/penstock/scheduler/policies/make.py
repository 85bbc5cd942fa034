"""From a policy's name in the cluster config to the policy."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from penstock.errors import Problem, UserError, nearest
from penstock.scheduler.policies.caps import DecodeCap, RequestCap
from penstock.scheduler.policies.gllm import TokenThrottling
from penstock.scheduler.policies.limits import Policy
from penstock.scheduler.policies.sglang import DynamicChunks, Slots

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


def make_policy(text: str, pp_size: int, prefill_ns: PrefillTime) -> Policy | None:
    """The policy that ``text`` asks for: ``decode-cap``, with arguments ``sglang(micro_batch=32)``, or a class of
    the user's ``package.module:Class``, made with ``pp_size``. None for vLLM's own rule.

    Raises:
        UserError: no such policy, or arguments that it does not take.
    """
    match = _CALL.fullmatch(text.strip())
    name = match["name"] if match else text
    if name == "vllm":
        return None
    arguments = _parse_arguments(text, match["arguments"] or "") if match else {}
    maker = _POLICIES.get(name) or _find(name)
    if maker is None:
        raise _problem(
            text,
            f"no policy '{name}' ({', '.join(POLICY_NAMES)} or module:Class){nearest(name, POLICY_NAMES)}",
        )
    if maker is DynamicChunks:
        arguments["prefill_ns"] = prefill_ns
    try:
        return maker(pp_size, **arguments)
    except TypeError as error:
        raise _problem(text, f"cannot make {name}: {error}") from error


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
        if not equals or number < 0 or number != number:
            raise _problem(text, f"'{part}' is not an argument: write name=number")
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
    except Exception as error:  # whatever the user's module raises is the user's to mend
        raise _problem(name, f"cannot import it: {error}") from error
