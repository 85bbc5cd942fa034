"""The fast engine against the plain scheduler on random options and workloads.

``make fuzz`` runs the profile ``fuzz`` with 2,000 cases; the default is a taste of it. A case is drawn from a seed,
not from hypothesis' own choices, since combinations that the simulator does not take are drawn again; the smallest
case that still fails is looked for by ``reference.fuzz``.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.fuzz import failure_of_cluster, failure_of_replay

FURTHER_SEEDS = st.integers(1_000_000, 2**63)


@given(seed=FURTHER_SEEDS)
@settings(deadline=None)
def test_random_cases_are_equal(seed: int):
    assert failure_of_replay(seed) is None


@given(seed=FURTHER_SEEDS)
@settings(deadline=None)
def test_random_clusters_are_equal(seed: int):
    assert failure_of_cluster(seed) is None


@pytest.mark.parametrize("seed", range(60))
def test_seeded_cases_are_equal(seed: int):
    assert failure_of_replay(seed) is None


@pytest.mark.parametrize("seed", range(60))
def test_seeded_clusters_are_equal(seed: int):
    assert failure_of_cluster(seed) is None
