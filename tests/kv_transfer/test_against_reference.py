"""The engine and the plain reference agree where KV moves, on random cases."""

from __future__ import annotations

import pytest

from reference.kv_fuzz import seed_differences


@pytest.mark.parametrize("seed", range(40))
def test_engine_and_reference_agree(seed: int):
    assert seed_differences(seed) == []
