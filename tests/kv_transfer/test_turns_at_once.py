"""Turns that are taken at once, and instances that run ahead, leave what turns one by one leave."""

from __future__ import annotations

import pytest

from kv_records import random_cluster, random_workload, records


@pytest.mark.parametrize("seed", range(40))
def test_a_run_leaves_the_same_as_one_that_takes_every_turn_alone(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("PENSTOCK_PURE", "1")
    config, workload = random_cluster(seed), random_workload(seed)
    slow = records(config, workload, exact_only=True)
    fast = records(config, workload, exact_only=False)
    for name, rows in slow.items():
        assert fast[name] == rows, name
