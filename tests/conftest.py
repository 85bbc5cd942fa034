"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PENSTOCK_DATA", REPOSITORY.parent / "shared"))
"""Where docs/data.md says."""

# No deadlines: machines that run tests are shared. ``make fuzz`` takes the second one.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=2000)
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep nothing in the user's folders."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PENSTOCK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Measured data and recordings, which are never part of the project; skips where they are absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: tests against measured data and recordings are skipped")
    return SHARED


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
