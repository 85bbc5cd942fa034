"""One workload at any rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.errors import UserError
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.offered_load import ARRIVALS, Arrivals, OfferedLoad, check_arrivals
from penstock.workload.workload import Call, Columns, Workload


def plain(count: int = 400) -> Workload:
    return generate(
        Recipe(
            num_requests=count,
            rate_per_s=7.0,
            input_tokens=parse_lengths("uniform:10,500", ""),
            output_tokens=parse_lengths("uniform:1,50", ""),
        )
    )


@pytest.mark.parametrize("kind", ARRIVALS)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_mean_rate_is_the_one_asked_for(kind: str, seed: int) -> None:
    offered_load = OfferedLoad(plain(), Arrivals(kind, 0.7))
    times = np.sort(offered_load.at(20.0, seed).arrival_ns)
    assert 400 / (times[-1] / 1e9) == pytest.approx(20.0, rel=0.15)


@pytest.mark.parametrize("kind", ARRIVALS)
def test_a_higher_rate_is_the_same_story_told_faster(kind: str) -> None:
    offered_load = OfferedLoad(plain(), Arrivals(kind))
    slow, fast = offered_load.at(5.0, 1), offered_load.at(10.0, 1)
    assert np.allclose(slow.arrival_ns, 2 * fast.arrival_ns, atol=2)
    assert np.array_equal(slow.input_tokens, fast.input_tokens)


@pytest.mark.parametrize("kind", ARRIVALS)
def test_seeds_are_different_realisations_of_the_same_requests(kind: str) -> None:
    offered_load = OfferedLoad(plain(), Arrivals(kind))
    lengths = [
        [request.input_tokens for request in offered_load.at(5.0, seed).requests()] for seed in (0, 1, 2)
    ]
    assert lengths[0] == plain().input_tokens.tolist()
    assert lengths[0] != lengths[1] != lengths[2]
    assert sorted(lengths[1]) == sorted(lengths[0])
    again = OfferedLoad(plain(), Arrivals(kind)).at(5.0, 1)
    assert np.array_equal(again.arrival_ns, offered_load.at(5.0, 1).arrival_ns)


def test_scaled_arrivals_keep_the_workloads_gaps() -> None:
    workload = plain()
    gaps = np.diff(workload.arrival_ns)
    scaled = OfferedLoad(workload, Arrivals("scaled"))
    first = np.diff(scaled.at(1.0, 0).arrival_ns)
    assert np.allclose(first / first.sum(), gaps / gaps.sum())
    turned = np.diff(np.sort(scaled.at(1.0, 1).arrival_ns))
    nearest = np.abs(turned[:, None] - first[None, :]).min(axis=1)
    assert (nearest <= 2).sum() >= len(first) - 2  # the gap over the seam is the mean one


@pytest.mark.parametrize("kind", ["poisson", "constant"])
def test_runs_of_a_recipe_have_requests_of_their_own(kind: str) -> None:
    recipe = Recipe(
        num_requests=400,
        input_tokens=parse_lengths("uniform:10,500", ""),
        output_tokens=parse_lengths("uniform:1,50", ""),
        seed=3,
    )
    load = OfferedLoad(generate(recipe), Arrivals(kind), recipe)
    first, second, again = (sorted(load.at(5.0, seed).input_tokens.tolist()) for seed in (0, 1, 1))
    assert first == sorted(generate(recipe).input_tokens.tolist())
    assert first != second == again
    assert load.at(5.0, 1, 900).input_tokens[:400].tolist() == load.at(5.0, 1, 400).input_tokens.tolist()
    assert "for each run anew" in load.how(400, several=True)
    assert load.how(400) == "the workload as it is"


def test_infinity_is_all_at_once() -> None:
    assert set(OfferedLoad(plain(), Arrivals()).at(math.inf, 2).arrival_ns) == {0}


def test_calls_of_a_session_keep_its_arrival() -> None:
    columns = Columns()
    columns.add_session(0, [Call(5, 5), Call(6, 6), Call(7, 7)])
    columns.add(1_000, Call(8, 8))
    columns.add_session(2_000, [Call(9, 9), Call(10, 10)])
    offered_load = OfferedLoad(Workload(columns, "test"), Arrivals("constant"))
    assert len(offered_load) == 3
    assert offered_load.at(1.0, 0).arrival_ns.tolist() == [0, 0, 0, 10**9, 2 * 10**9, 2 * 10**9]
    assert offered_load.at(1.0, 0).num_sessions == 2
    shuffled = offered_load.at(1.0, 4).arrival_ns
    assert shuffled[0] == shuffled[1] == shuffled[2]
    assert sorted({int(shuffled[0]), int(shuffled[3]), int(shuffled[4])}) == [0, 10**9, 2 * 10**9]


def test_arrivals_that_make_no_sense_are_refused() -> None:
    at_once = Workload.from_columns([0, 0], [1, 1], [1, 1], "test")
    with pytest.raises(UserError, match="same time"):
        check_arrivals(Arrivals("scaled"), at_once)
    with pytest.raises(UserError, match="did you mean 'poisson'"):
        check_arrivals(Arrivals("poison"), at_once)
    with pytest.raises(UserError, match="burstiness"):
        check_arrivals(Arrivals("gamma", 0.0), at_once)
    check_arrivals(Arrivals("constant"), at_once)
