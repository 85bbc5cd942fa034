"""The engine and the plain reference agree where KV moves, on random cases."""

from __future__ import annotations

import pytest

from reference.kv_fuzz import seed_differences

LATER = (80, 100, 344, 378, 382, 421, 439, 454, 684)
"""Seeds whose mistakes the first ones do not find: a block that two copies watch, a client that leaves between load and
admission, a heartbeat that is read late, a load that nobody will hit."""


@pytest.mark.parametrize("seed", [*range(40), *LATER])
def test_engine_and_reference_agree(seed: int):
    assert seed_differences(seed) == []
