"""How a question of size is searched: deployments answered by a formula in place of a simulation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from penstock.explore.pool import InProcess
from penstock.explore.result import MISSES, OK, PointResult
from penstock.explore.size_evaluate import EDGE, HOLD, SizeJob
from penstock.explore.sizing import FAR, HardwareAnswer, SizeQuestion, size
from penstock.explore.sizing_report import doubts
from penstock.explore.slo import parse_slo
from penstock.workload.generate import PRESETS, Recipe, generate
from penstock.workload.offered_load import Arrivals

CHAT = PRESETS["sharegpt"]
RATE = 15.0


class ByFormula(InProcess[SizeJob, PointResult]):
    """A replica takes so many requests/s for each of its GPUs; within ``unsure`` of the rate nobody is sure."""

    def __init__(self, per_gpu: float, unsure: float = 0.0) -> None:
        super().__init__(self.answer)
        self.per_gpu, self.unsure = per_gpu, unsure
        self.asked: list[SizeJob] = []

    def answer(self, job: SizeJob) -> PointResult:
        self.asked.append(job)
        excess = job.rate_per_s / (self.per_gpu * job.point.gpus)
        holds = excess <= 1 or job.kind != HOLD
        return PointResult(
            key="",
            phase=job.kind,
            point=job.point,
            status=OK if holds else MISSES,
            reason="" if holds else "too slow",
            rate_per_s=job.rate_per_s * (1.2 if job.kind == EDGE else 1.0),
            requests=job.requests,
            excess=excess,
            limiting_metric="tpot_p99",
            why_wide="not sure" if 1 - self.unsure < excess <= 1 else None,
        )


RECIPE = Recipe(num_requests=1000, input_tokens=CHAT.input_tokens, output_tokens=CHAT.output_tokens)
QUESTION = SizeQuestion(
    model="meta-llama/Llama-3.1-70B",
    rate_per_s=RATE,
    slo=parse_slo("ttft_p99<2s,tpot_p99<60ms"),
    hardware={"H100": 8},
    workload=generate(RECIPE),
    recipe=RECIPE,
    arrivals=Arrivals(),
    prices={},
)


def answer_of(executor: ByFormula, available: int) -> HardwareAnswer:
    question = replace(QUESTION, hardware={"H100": available})
    (answer,) = size(question, lambda _: executor, lambda _: None)[0]
    return answer


@pytest.mark.parametrize("per_gpu", [0.5, 1.0, 1.4])
def test_the_fewest_replicas_that_hold_are_found(per_gpu: float) -> None:
    executor = ByFormula(per_gpu)
    answer = answer_of(executor, 8)
    assert answer.choices
    for choice in answer.choices:
        point = choice.point
        assert choice.sure
        assert choice.safe is None
        assert choice.at_rate.gpus * per_gpu >= RATE
        # One replica less was tried and missed, or is too few even if the estimate is too low.
        tried = {job.point for job in executor.asked if job.kind == HOLD}
        least = next(one.cut for one in answer.trials if one.held is choice.at_rate).replicas(RATE, 1.15)
        if point.replicas > least.replicas:
            assert any(
                (one.tp, one.pp, one.prefill_tp) == (point.tp, point.pp, point.prefill_tp)
                and one.replicas == point.replicas - 1
                for one in tried
            )
        assert choice.headroom == pytest.approx(0.2)
    gpus = [choice.at_rate.gpus for choice in answer.choices]
    assert gpus == sorted(gpus)
    assert max(gpus) <= FAR * gpus[0]


def test_what_is_not_sure_stays_with_the_next_larger_one_that_is() -> None:
    answer = answer_of(ByFormula(1.0, unsure=0.1), 8)
    unsure = [choice for choice in answer.choices if not choice.sure]
    assert unsure
    for choice in unsure:
        assert choice.safe is not None
        assert choice.safe.gpus > choice.at_rate.gpus
        assert (choice.safe.point.tp, choice.safe.point.pp) == (choice.point.tp, choice.point.pp)
        assert choice.safe.why_wide is None
    (line,) = [line for line in doubts(QUESTION, [answer]) if unsure[0].point.label in line]
    assert "? is not sure" in line
    assert f"on {unsure[0].safe.gpus if unsure[0].safe else 0} GPUs, holds for sure" in line


def test_the_next_larger_one_is_larger_than_all_that_were_not_sure() -> None:
    executor = ByFormula(0.8, unsure=0.3)
    answer = answer_of(executor, 64)
    asked = [job.point for job in executor.asked if job.kind == HOLD]
    assert len(asked) == len(set(asked))
    wider = [one for one in answer.trials if one.held and one.safe and one.safe.gpus > 1.3 * one.held.gpus]
    assert wider


def test_all_three_best_are_shown_where_there_are_gpus_for_them() -> None:
    assert len(answer_of(ByFormula(1.0), 64).choices) == 3
