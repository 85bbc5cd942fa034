from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.self_made import LogOfRun, random_requests, write_cluster
from penstock.calibration.benchmark import Benchmark
from penstock.calibration.parameters import FITTED, to_calibration
from penstock.calibration.replay import Prompts, Replay, check_prompts
from penstock.errors import UserError
from penstock.spec.calibration import calibrated
from penstock.spec.cluster import ClusterSpec
from penstock.spec.load import load_cluster
from penstock.workload.workload import Workload

VALUES = {
    "host_step_ns": 1e6,
    "host_to_stage_ns": 0.0,
    "request_ns": 5e6,
    "base_ns": 10e6,
    "prefill_base_ns": 0.0,
    "prefill_token_ns": 1e5,
    "prefill_context_ns": 0.0,
    "decode_ns": 0.0,
    "decode_context_ns": 0.0,
}


def cluster(directory: Path, **instance: object) -> ClusterSpec:
    spec = load_cluster(write_cluster(directory, "THATCPU", **instance), any_hardware=True)
    return calibrated(spec, to_calibration(spec.instances[0], FITTED, VALUES))


def benchmark(starts: list[float], prompts: list[int], answers: list[int]) -> Benchmark:
    asked = random_requests(0, len(starts), 1.0)
    return replace(
        asked,
        start_s=np.array(starts),
        input_tokens=np.array(prompts),
        output_tokens=np.array(answers),
        ttft_s=np.full(len(starts), 0.1),
        latency_s=np.full(len(starts), 0.2),
    )


def test_a_request_is_what_its_terms_say(tmp_path: Path):
    """5 ms on the way, 10 + 100 x 0.1 ms of prefill, then decodes of 10 ms and the host's 1 ms."""
    seen = Replay(cluster(tmp_path), benchmark([0.0], [100], [4])).serve()
    assert seen.ttft_s[0] == pytest.approx(0.025)
    assert seen.gaps_s is not None
    assert seen.gaps_s[0] == pytest.approx([0.011] * 3)
    assert seen.latency_s[0] == pytest.approx(0.058)


def test_times_of_the_engine_hold_no_way_in(tmp_path: Path):
    own = replace(benchmark([0.0], [100], [4]), engine_clock=True)
    assert Replay(cluster(tmp_path), own).serve().ttft_s[0] == pytest.approx(0.020)


def test_requests_arrive_in_the_order_of_their_first_tokens_where_that_is_asked(tmp_path: Path):
    """Sent 1 ms apart, answered in the other order: the engine saw the second one first."""
    own = replace(benchmark([0.0, 0.001], [300, 100], [2, 2]), ttft_s=np.array([0.09, 0.03]))
    spec = cluster(tmp_path)
    sent, seen = Replay(spec, own).serve(), Replay(spec, own, as_seen=True).serve()
    assert sent.ttft_s[0] < sent.ttft_s[1]
    assert seen.ttft_s[0] == pytest.approx(seen.ttft_s[1] + 0.001)


def test_what_a_log_calls_cached_is_not_computed(tmp_path: Path):
    spec = cluster(tmp_path, enable_prefix_caching=True, block_size=16)
    own = benchmark([0.0, 1.0], [320, 320], [2, 2])
    prompts = Prompts(cached_tokens=np.array([0, 160]))
    seen = Replay(spec, own, prompts=prompts).serve()
    assert seen.ttft_s == pytest.approx([0.005 + 0.042, 0.005 + 0.026])


def test_prefixes_by_groups(tmp_path: Path):
    """The third request has the prefix of the first, the second another one."""
    log = LogOfRun()
    spec = cluster(tmp_path, enable_prefix_caching=True, block_size=16)
    own = benchmark([0.0, 1.0, 2.0], [320, 320, 320], [2, 2, 2])
    Replay(spec, own, prompts=Prompts(shared_tokens=160, groups=2)).serve(sinks=[log])
    computed = [int(line.split(" context tokens")[0].split()[-1]) for line in log.lines]
    assert [tokens for tokens in computed if tokens] == [320, 320, 160]


def test_a_workload_that_was_not_sent():
    own = benchmark([0.0, 1.0], [10, 20], [2, 2])
    with pytest.raises(UserError, match="1 requests, but to be sent sent 2"):
        check_prompts(Workload.from_columns([0], [10], [2], "w.jsonl"), own)
    with pytest.raises(UserError, match="1 prompts have other lengths, the first is request 1"):
        check_prompts(Workload.from_columns([0, 1], [10, 21], [2, 2], "w.jsonl"), own)


def test_requests_that_cannot_run(tmp_path: Path):
    spec = cluster(tmp_path)
    with pytest.raises(UserError, match="1 requests cannot run on"):
        Replay(spec, benchmark([0.0], [5000], [2])).serve()
