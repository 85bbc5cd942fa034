"""A running `penstock serve` for all tests that only look at it."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from served import Served, cluster_config, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """One instance of Llama-3.1-8B at pp 2."""
    with serving(tmp_path_factory.mktemp("serve"), cluster_config()) as served:
        yield served
