"""The fast engine against the plain scheduler on random options and workloads.

``make fuzz`` runs the profile ``fuzz`` with 2,000 cases; the default is a taste of it.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.validate.schedule import penstock_engine
from reference.cases import random_case, seeded_case
from reference.fuzz import describe, difference, shrink

COHORTS = penstock_engine()
EXACT_ONLY = penstock_engine(exact_only=True)


@given(rng=st.randoms(use_true_random=False))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_random_cases_are_equal(rng: random.Random):
    case = random_case(rng)
    assert difference(case, COHORTS) is None, describe(case)
    assert difference(case, EXACT_ONLY) is None, describe(case)


@pytest.mark.parametrize("seed", range(60))
def test_seeded_cases_are_equal(seed: int):
    case = seeded_case(seed)
    for engine in (COHORTS, EXACT_ONLY):
        found = difference(case, engine)
        if found is not None:
            small = shrink(case, lambda smaller, engine=engine: difference(smaller, engine) is not None)
            pytest.fail(f"seed {seed}: {found}\nsmallest: {difference(small, engine)}\n{describe(small)}")
