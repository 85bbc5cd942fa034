from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.errors import UserError
from penstock.spec.load_run import load_run_options


def test_defaults() -> None:
    options, raw = load_run_options({"router": None})
    assert (options.router, options.seed, options.record) == ("LOAD", 0, "stages")
    assert options.keep_token_times
    assert raw.num_reqs is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "seed: must be >= 0"),
        ({"num_reqs": 1.5}, "num_reqs: must be an integer"),
        ({"log_interval": float("inf")}, "log_interval: must be a finite number"),
        ({"record": "all"}, "record: must be 'requests', 'steps' or 'stages'"),
        ({"profile_root": "/no/such/directory"}, "profile_root: /no/such/directory cannot be read"),
        ({"profile_root": 3}, "profile_root: must be a path, not 3"),
        ({"profile_root": ""}, "profile_root: must not be empty"),
        ({"profile_root": "a\0b"}, "cannot be read: embedded null byte"),
        ({"log_interval": 1e-6}, "log_interval: must be 0 (no log) or >= 0.001 seconds, not 1e-06"),
        ({"log_interval": 1e10}, "log_interval: must be <= 1e+09"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_run_options(given)
    assert [message in str(problem) for problem in caught.value.problems] == [True]


def test_the_profile_root_may_be_a_path(tmp_path: Path) -> None:
    assert load_run_options({"profile_root": tmp_path})[0].profile_root == str(tmp_path)
