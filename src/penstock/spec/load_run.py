"""How to run: options of a run that are not the engine's, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from penstock.errors import Problem, UserError
from penstock.spec.check import Raw, check_members, shown
from penstock.spec.options import RunOptions
from penstock.spec.raw import Counter, Name

Record = Literal["requests", "steps", "stages"]

SHORTEST_LOG_INTERVAL_S = 1e-3
"""A line per interval and instance: shorter ones fill a disk and say nothing."""


def _not_too_short(interval_s: float) -> float:
    if 0 < interval_s < SHORTEST_LOG_INTERVAL_S:
        raise ValueError(f"must be 0 (no log) or >= {SHORTEST_LOG_INTERVAL_S:g} seconds, not {interval_s:g}")
    return interval_s


class RawRun(Raw):
    """As :class:`RunOptions`, with LLMServingSim's names; None = not given."""

    request_routing_policy: Literal["LOAD", "RR", "RAND", "CUSTOM"] | None = None
    router: Name | None = None
    seed: Counter | None = None
    record: Record | None = None
    keep_token_times: bool | None = None
    exact_only: bool | None = None
    profile_root: Any = None
    num_reqs: Counter | None = None
    log_interval: Annotated[float, Field(ge=0, le=1e9), AfterValidator(_not_too_short)] | None = None


def load_run_options(
    options: Mapping[str, Any], flag_name: Callable[[str], str] = str
) -> tuple[RunOptions, RawRun]:
    """The run's options, and all members as given.

    Raises:
        UserError: with every mistake found.
    """
    problems: list[Problem] = []
    raw = check_members(RawRun, options, lambda loc: flag_name(str(loc[0])) if loc else "", problems).value
    root = _profile_root(raw.profile_root, flag_name("profile_root"), problems)
    policy = raw.request_routing_policy
    if policy == "CUSTOM" and raw.router is None:
        problems.append(
            Problem(flag_name("request_routing_policy"), f"CUSTOM needs {flag_name('router')} module:Class")
        )
    if policy not in (None, "CUSTOM") and raw.router not in (None, policy):
        message = f"'{raw.router}' contradicts {flag_name('request_routing_policy')} {policy}"
        problems.append(Problem(flag_name("router"), message))
    if problems:
        raise UserError(problems)
    defaults = RunOptions()
    return RunOptions(
        router=raw.router or policy or defaults.router,
        seed=raw.seed or 0,
        record=raw.record or defaults.record,
        keep_token_times=raw.keep_token_times is not False,
        profile_root=root,
        exact_only=bool(raw.exact_only),
    ), raw


def _profile_root(value: Any, where: str, problems: list[Problem]) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        problems.append(Problem(where, f"must be a path, not {shown(value)}"))
        return None
    if not os.fspath(value):
        problems.append(Problem(where, "must not be empty"))
        return None
    path = Path(value)
    try:
        next(path.iterdir(), None)
    except (OSError, ValueError) as error:  # ValueError: a null byte in it
        reason = getattr(error, "strerror", None) or error
        problems.append(Problem(where, f"{path} cannot be read: {reason}"))
    return str(path)
