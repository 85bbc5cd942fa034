from __future__ import annotations

import pytest

from penstock.cost.step_cost import HopCost, PipelineCost, StepLoad
from penstock.pipeline.pipeline import Pipeline


class NoCost:
    def stage_ns(self, load: StepLoad) -> list[int]:
        raise AssertionError("the pipeline is given its compute times")

    def notes(self) -> tuple[str, ...]:
        return ()


def make(stages: int, *, arrival: int = 0, occupancy: int = 0, blocking_sends: bool = False) -> Pipeline:
    hop = HopCost([arrival] * 9, [occupancy] * 9)
    cost = PipelineCost(NoCost(), (hop,) * (stages - 1), [0] * 9)
    return Pipeline(cost, stages, blocking_sends=blocking_sends)


def test_a_step_passes_from_stage_to_stage() -> None:
    pipeline = make(3, arrival=5)
    assert pipeline.submit(100, 1, [10, 20, 30]) == 170
    assert pipeline.times == [100, 100, 110, 115, 115, 135, 140, 140, 170]


def test_a_step_waits_for_the_step_before_it_on_every_stage() -> None:
    pipeline = make(2)
    pipeline.submit(0, 1, [10, 30])
    assert pipeline.submit(0, 1, [10, 30]) == 70
    assert pipeline.times == [0, 10, 20, 20, 40, 70]


def test_a_taken_link_delays_the_next_transfer_but_its_latency_does_not() -> None:
    pipeline = make(2, arrival=100, occupancy=60)
    pipeline.submit(0, 1, [10, 1])
    pipeline.submit(0, 1, [10, 1])
    # The second leaves its stage at 20, the link at 10 + 60.
    assert pipeline.times[3] == 70 + 100


def test_with_blocking_sends_a_stage_is_taken_until_its_activations_have_arrived() -> None:
    pipeline = make(2, arrival=100, blocking_sends=True)
    pipeline.submit(0, 1, [10, 1])
    pipeline.submit(0, 1, [10, 1])
    assert pipeline.times[1] == 110


def test_hops_must_match_the_stages() -> None:
    with pytest.raises(ValueError, match="3 stages need 2 hops"):
        Pipeline(PipelineCost(NoCost(), (), [0]), 3)
