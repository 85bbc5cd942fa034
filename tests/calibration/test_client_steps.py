"""Steps read off the token times of a benchmark, against steps that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock.calibration.benchmark import Benchmark
from penstock.calibration.client_steps import FEWEST_STEPS, steps_of_client
from penstock.calibration.fit import load_measured
from penstock.calibration.formats import read_benchmark
from penstock.spec.load import load_cluster

RECORDED = Path(__file__).parents[3] / "shared" / "oracle" / "bench-cpu"
DECODE_S = 0.010
PREFILL_S = 0.050
MANY = 3 * FEWEST_STEPS


def served(prompts: list[int], steps: list[tuple[float, set[int]]]) -> Benchmark:
    """What a client sees of steps, each with its time and the requests that got a token."""
    at_s, times = 0.0, [list[float]() for _ in prompts]
    for took_s, requests in steps:
        at_s += took_s
        for request in requests:
            times[request].append(at_s)
    start_s = np.zeros(len(prompts))
    first = np.array([own[0] for own in times])
    last = np.array([own[-1] for own in times])
    return Benchmark(
        source="made by hand",
        kind="",
        start_s=start_s,
        input_tokens=np.array(prompts),
        output_tokens=np.array([len(own) for own in times]),
        ttft_s=first - start_s,
        latency_s=last - start_s,
        gaps_s=tuple(np.diff(own) for own in times),
    )


def test_who_gets_tokens_together_was_in_the_step():
    steps = [(PREFILL_S, {0}), *[(DECODE_S, {0})] * MANY, (PREFILL_S, {0, 1}), *[(DECODE_S, {0, 1})] * MANY]
    found = steps_of_client(served([100, 200], steps), budget=1024)
    assert found is not None
    # Of the first step nobody knows when it began.
    assert len(found) == len(steps) - 1
    both = MANY
    assert found.elapsed_s[both] == pytest.approx(PREFILL_S)
    assert (found.prefill_tokens[both], found.prefill_context[both]) == (200, 0)
    assert (found.decodes[both], found.decode_context[both]) == (1, 100 + MANY)
    assert found.elapsed_s[both + 1] == pytest.approx(DECODE_S)
    assert (found.prefill_tokens[both + 1], found.decodes[both + 1]) == (0, 2)
    assert found.decode_context[both + 1] == 100 + MANY + 1 + 200


def test_a_prompt_longer_than_the_budget_took_all_that_was_left_of_the_steps_before():
    steps = [
        (PREFILL_S, {0}),
        *[(DECODE_S, {0})] * MANY,
        (PREFILL_S, {0}),
        (PREFILL_S, {0}),
        (DECODE_S, {0, 1}),
    ]
    steps += [(DECODE_S, {0, 1})] * MANY
    found = steps_of_client(served([50, 250], steps), budget=101)
    assert found is not None
    assert found.prefill_tokens[MANY : MANY + 4].tolist() == [100, 100, 50, 0]
    assert found.prefill_context[MANY : MANY + 4].tolist() == [0, 100, 200, 0]
    assert found.decodes[MANY : MANY + 4].tolist() == [1, 1, 1, 2]


def test_where_a_prompt_may_have_begun_earlier_the_steps_are_left_out():
    """Beside prompt 1 the budget had room for 30 tokens of prompt 2: nobody knows whether it was there in time."""
    steps = [(PREFILL_S, {0}), *[(DECODE_S, {0})] * MANY, (PREFILL_S, {0, 1}), (PREFILL_S, {0, 1, 2})]
    steps += [(DECODE_S, {0, 1, 2})] * MANY
    found = steps_of_client(served([50, 70, 60], steps), budget=101)
    assert found is not None
    # The two, and the decodes after them, whose beginning is the end of one of them.
    assert len(found) == len(steps) - 1 - 3
    assert not found.prefill_tokens.any()


def test_after_a_pause_nobody_knows_when_a_step_began():
    steps = [(PREFILL_S, {0}), *[(DECODE_S, {0})] * MANY, (PREFILL_S, {1}), *[(DECODE_S, {1})] * MANY]
    found = steps_of_client(served([100, 200], steps), budget=1024)
    assert found is not None
    assert len(found) == 2 * MANY
    assert not found.prefill_tokens.any()


def test_too_few_steps_are_none():
    assert steps_of_client(served([100], [(PREFILL_S, {0}), *[(DECODE_S, {0})] * FEWEST_STEPS]), 1024) is None


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"no recordings at {RECORDED}")
@pytest.mark.parametrize("run", ["pp1_sync_moderate", "pp1_async_moderate", "pp1_sync_closed8"])
def test_steps_of_real_clients_are_those_of_the_servers_logs(run: str):
    directory = RECORDED / run
    cluster = load_cluster(directory / "cluster.json", any_hardware=True)
    log = load_measured(cluster, str(directory / "bench.json"), str(directory / "server.log.gz"), None).steps
    budget = cluster.instances[0].scheduler.max_num_batched_tokens
    found = steps_of_client(read_benchmark(str(directory / "bench.json")), budget)
    assert log is not None
    assert found is not None
    places = {frozenset(own): place for place, own in enumerate(log.tokens)}
    pairs = np.array([(place, places[frozenset(own)]) for place, own in enumerate(found.tokens)])
    assert len(pairs) > 0.8 * len(log)
    for name in ("decodes", "decode_context", "min_context", "max_context", "sampled"):
        assert (getattr(found, name)[pairs[:, 0]] == getattr(log, name)[pairs[:, 1]]).all(), name
    for name in ("prefill_tokens", "prefill_context"):
        differ = getattr(found, name)[pairs[:, 0]] != getattr(log, name)[pairs[:, 1]]
        assert differ.mean() < 0.005, name
