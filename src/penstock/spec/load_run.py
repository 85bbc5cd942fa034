"""How to run: options of a run that are not the engine's, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.spec.check import check_members, shown
from penstock.spec.option_table import RawRun
from penstock.spec.options import RunOptions

MOST_THINKING = 10_000_000
"""Users who think are told apart from the start, one by one."""


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
    if raw.calibration is not None and not isinstance(raw.calibration, str | os.PathLike):
        where = flag_name("calibration")
        problems.append(Problem(where, f"must be a path, not {shown(raw.calibration)}"))
    if raw.think_time and not raw.max_concurrency:
        problems.append(Problem(flag_name("think_time"), "needs max_concurrency, the number of users"))
    if raw.think_time and (raw.max_concurrency or 0) > MOST_THINKING:
        message = f"at most {MOST_THINKING:,} users with a think time, not {raw.max_concurrency:,}"
        problems.append(Problem(flag_name("max_concurrency"), message))
    if problems:
        raise UserError(problems)
    defaults = RunOptions()
    return RunOptions(
        router=raw.router or defaults.router,
        seed=raw.seed or 0,
        record=raw.record or defaults.record,
        keep_token_times=raw.keep_token_times is not False,
        profile_root=root,
        exact_only=bool(raw.exact_only),
        max_concurrency=raw.max_concurrency or 0,
        think_time_s=raw.think_time or 0.0,
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
