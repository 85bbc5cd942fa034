"""How to run: options of a run that are not the engine's, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from penstock.errors import Problem, UserError
from penstock.spec.check import Raw, check_members
from penstock.spec.options import RunOptions
from penstock.spec.raw import Counter, Name, NonNegative

Record = Literal["requests", "steps", "stages"]


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
    log_interval: NonNegative | None = None


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
        problems.append(Problem(where, "must be a path"))
        return None
    path = Path(value)
    try:
        next(path.iterdir(), None)
    except OSError as error:
        problems.append(Problem(where, f"{path} cannot be read: {error.strerror}"))
    return str(path)
