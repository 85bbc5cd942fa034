"""Routers: who they choose, what they may see, and how they are named."""

from __future__ import annotations

import importlib.metadata
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.engine import router as router_module
from penstock.engine.fleet import Fleet, watch
from penstock.engine.router import ROUTERS, CheckedRouter, PrefixRouter, Router, make_router
from penstock.engine.simulation import Simulation
from penstock.errors import UserError
from penstock.spec.load import load_cluster
from penstock.spec.options import RunOptions
from penstock.workload.request import Request
from penstock.workload.workload import Workload


@dataclass
class Stub:
    """An instance as routers see it, and as tests set it."""

    num_running: int = 0
    num_waiting: int = 0
    max_num_seqs: int = 8
    outstanding_tokens: int = 0


def fleet_of(*stubs: Stub) -> Fleet:
    return watch(stubs)[0]


def request(index: int = 0, ids: list[int] | None = None) -> Request:
    length = len(ids) if ids else 10
    return Request(index, 0, length, 5, array("i", ids) if ids else None)


class Patient:
    """A user's router: always the last."""

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        return instances[-1].index, "last"


class Seeded(Patient):
    """A user's router that asks for the seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed


class Routeless:
    """Not a router."""


# --- choices ------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4)), min_size=2, max_size=9))
def test_load_is_llmservingsims_score_with_ties_going_round(states: list[tuple[int, int, int]]) -> None:
    stubs = [Stub(running, waiting, limit) for running, waiting, limit in states]
    fleet, columns = watch(stubs)
    router = make_router("load", 0)
    last = -1
    for step in range(6):
        scores = [(4 * stub.num_waiting + stub.num_running) / stub.max_num_seqs for stub in stubs]
        expected = next(
            place % len(stubs)
            for place in range(last + 1, last + 1 + len(stubs))
            if scores[place % len(stubs)] == min(scores)
        )
        last = router.route(request(step), fleet)[0]
        assert last == expected
        stubs[last].num_waiting += 1
        columns.refresh(last, stubs[last])


def test_round_robin_takes_turns() -> None:
    fleet, router = fleet_of(Stub(), Stub(), Stub()), make_router("RR", 0)
    assert [router.route(request(), fleet)[0] for _ in range(5)] == [0, 1, 2, 0, 1]


def test_random_is_seeded_and_reaches_everyone() -> None:
    fleet = fleet_of(Stub(), Stub(), Stub())
    first, again, other = make_router("RAND", 1), make_router("RAND", 1), make_router("RAND", 2)
    picks = [[r.route(request(), fleet)[0] for _ in range(30)] for r in (first, again, other)]
    assert picks[0] == picks[1] != picks[2]
    assert set(picks[0]) == {0, 1, 2}


def test_two_choices_avoid_the_most_loaded_and_use_the_others() -> None:
    fleet, router = fleet_of(Stub(1), Stub(0), Stub(5), Stub(2)), make_router("P2C", 3)
    picks = [router.route(request(), fleet)[0] for _ in range(200)]
    assert set(picks) == {0, 1, 3}  # the most loaded always loses to whoever it is compared with
    assert picks.count(1) > picks.count(0) > picks.count(3)


def test_least_tokens_counts_tokens_and_not_requests() -> None:
    fleet, router = (
        fleet_of(Stub(1, 0, 8, 900), Stub(5, 2, 8, 300), Stub(0, 0, 8, 400)),
        make_router("LOT", 0),
    )
    assert router.route(request(), fleet)[0] == 1


def test_prefix_follows_the_longest_known_prefix() -> None:
    stubs = [Stub(), Stub(), Stub()]
    fleet, columns = watch(stubs)
    router = make_router("PREFIX", 0)
    shared, branch = list(range(128)), list(range(500, 628))
    first = router.route(request(0, shared), fleet)[0]
    stubs[first].outstanding_tokens = 10
    columns.refresh(first, stubs[first])
    second = router.route(request(1, branch), fleet)[0]
    assert second != first  # nothing known of it: as LOT
    assert router.route(request(2, [*shared, *branch]), fleet)[0] == first
    assert router.route(request(3, [*shared[:64], 9, *shared[65:]]), fleet)[0] == first  # one block in common


def test_prefix_leaves_an_instance_that_is_far_busier() -> None:
    stubs = [Stub(), Stub()]
    fleet, columns = watch(stubs)
    router = make_router("PREFIX", 0)
    prompt = list(range(64))
    home = router.route(request(0, prompt), fleet)[0]
    stubs[home].outstanding_tokens = 10_000
    columns.refresh(home, stubs[home])
    assert router.route(request(1, prompt), fleet)[0] != home


def test_prefix_remembers_a_bounded_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefixRouter, "MAX_BLOCKS", 4)
    router, fleet = PrefixRouter(), fleet_of(Stub(), Stub())
    for index in range(10):
        router.route(request(index, [index] * 64), fleet)
    assert len(router._seen_by) == 4


# --- what they see ------------------------------------------------------------------------------------------


def test_views_show_the_state_and_cannot_change_it() -> None:
    stub = Stub(1, 2, 3, 4)
    fleet, columns = watch([stub, Stub()])
    view = fleet[0]
    seen = (view.index, view.num_running, view.num_waiting, view.max_num_seqs, view.outstanding_tokens)
    assert seen == (0, 1, 2, 3, 4)
    stub.num_running = 7
    assert view.num_running == 1  # until the simulation says so
    columns.refresh(0, stub)
    assert view.num_running == 7
    for name in ("num_running", "num_waiting", "anything"):
        with pytest.raises(AttributeError, match="cannot change"):
            setattr(view, name, 0)


def test_columns_cannot_be_made_writable() -> None:
    fleet = fleet_of(Stub(), Stub())
    for column in (fleet.num_running, fleet.num_waiting, fleet.max_num_seqs, fleet.outstanding_tokens):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            column.flags.writeable = True


def small_cluster(instances: int) -> dict[str, object]:
    instance = {
        "model_name": "meta-llama/Llama-3.2-1B",
        "hardware": "L4",
        "npu_mem": {"mem_size": 24, "mem_bw": 300, "mem_latency": 0},
        "tp_size": 1,
        "max_num_seqs": 4,
    }
    return {
        "num_nodes": 1,
        "link_bw": 16,
        "link_latency": 1000,
        "nodes": [{"num_instances": instances, "instances": [instance] * instances}],
    }


def workload(count: int) -> Workload:
    rng = np.random.default_rng(5)
    arrivals = np.sort(rng.integers(0, 1_000_000_000, count)).tolist()
    return Workload.from_columns(arrivals, [50] * count, rng.integers(2, 30, count).tolist(), "test")


@pytest.mark.parametrize("name", list(ROUTERS))
def test_every_router_serves_every_request(name: str) -> None:
    record = Simulation(load_cluster(small_cluster(3)), workload(60), RunOptions(router=name)).run()
    assert len(record.requests) == 60
    assert set(record.requests.values()[:, 1]) == {0, 1, 2}


def test_views_are_the_instances_present_state_at_every_arrival() -> None:
    simulation = Simulation(load_cluster(small_cluster(3)), workload(80), RunOptions(router="RR"))
    dispatch, seen = simulation._dispatch, 0
    inner = dispatch.router

    class Checking:
        def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
            nonlocal seen
            for view, instance in zip(instances, simulation.serving, strict=True):
                assert view.num_running == instance.num_running
                assert view.num_waiting == instance.num_waiting
                assert view.outstanding_tokens == instance.outstanding_tokens
            seen += 1
            return inner.route(request, instances)

    dispatch.router = Checking()
    simulation.run()
    assert seen == 80
    assert all(instance.outstanding_tokens == 0 for instance in simulation.instances)


# --- names --------------------------------------------------------------------------------------------------


def test_a_users_class_is_found_and_given_the_seed_it_asks_for() -> None:
    found = make_router(f"{__name__}:Patient", 1)
    assert isinstance(found, CheckedRouter)
    assert isinstance(found.router, Patient)
    seeded = make_router(f"{__name__}:Seeded", 42)
    assert isinstance(seeded, CheckedRouter)
    assert isinstance(seeded.router, Seeded)
    assert seeded.router.seed == 42


def test_entry_points_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("patient", f"{__name__}:Patient", router_module.ENTRY_POINT_GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    found: Router = make_router("patient", 0)
    assert found.route(request(), fleet_of(Stub(), Stub())) == (1, "last")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LOTS", "no router 'LOTS'.*did you mean 'LOT'"),
        ("nowhere:Router", "cannot make nowhere:Router"),
        (f"{__name__}:Missing", "cannot make"),
        (f"{__name__}:Routeless", "has no method route"),
    ],
)
def test_unknown_routers_are_refused(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_router(name, 0)


# --- routers of users that go wrong -------------------------------------------------------------------------


class Answering:
    """Gives the answer it was made with."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def route(self, request: Request, instances: Fleet) -> tuple[int, str]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "returned None, expected an instance's index and a reason"),
        (1, "returned 1, expected"),
        ((1,), r"returned \(1,\), expected"),
        (("1", "why"), r"returned \('1', 'why'\), expected"),
        ((0.5, "why"), "returned .*0.5.*expected"),
        ("x" * 200, r"returned 'x+\.\.\., expected"),
        ((2, "why"), r"chose instance 2 of 2 \(from 0\)"),
        ((-1, "why"), "chose instance -1 of 2"),
        ((True, "why"), "chose instance True of 2"),
        (RuntimeError("out of luck"), r"raised RuntimeError: out of luck \(.*test_router.py:\d+\)"),
    ],
)
def test_what_a_users_router_does_wrong_is_said(answer: Any, words: str) -> None:
    router = CheckedRouter(Answering(answer), "mine:Router", "--router")
    with pytest.raises(UserError, match=f"--router: mine:Router, asked for request 0, {words}"):
        router.route(request(), fleet_of(Stub(), Stub()))


def test_a_users_router_may_answer_with_numpys_integers() -> None:
    router = CheckedRouter(Answering((np.int64(1), 7)), "mine:Router", "--router")
    assert router.route(request(), fleet_of(Stub(), Stub())) == (1, "7")
