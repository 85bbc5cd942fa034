"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


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
