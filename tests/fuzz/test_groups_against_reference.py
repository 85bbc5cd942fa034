"""Data-parallel ranks against the plain reference on random options, workloads and deployments."""

from __future__ import annotations

import pytest

from reference.group_cases import failure_of_group


@pytest.mark.parametrize("seed", range(30))
def test_seeded_groups_are_equal(seed: int):
    assert failure_of_group(seed) is None
