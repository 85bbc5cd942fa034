from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest

from calibration.self_made import fitted_truth, make
from penstock.calibration.formats import read_benchmark
from penstock.calibration.matched_steps import match_log
from penstock.calibration.server_log import read_server_log
from penstock.errors import UserError

RUNS = ("pp1_sync_moderate", "pp1_sync_closed8", "pp1_async_moderate", "pp2_moderate")


@pytest.fixture(scope="module")
def bench_cpu(shared_dir: Path) -> Path:
    """Benchmarks of real servers."""
    return shared_dir / "oracle" / "bench-cpu"


@pytest.mark.parametrize("name", RUNS)
def test_every_line_of_a_real_log_is_matched(bench_cpu: Path, name: str):
    """The warm-up before the benchmark is found and left out, and every request gets all its tokens."""
    run = bench_cpu / name
    benchmark = read_benchmark(str(run / "bench.json"))
    log = read_server_log(str(run / "server.log.gz"))
    steps = match_log(log, benchmark, 2 if name.startswith("pp2") else 1, caches=False)
    assert steps.complete
    first = json.loads((run / "meta.json").read_text())["first_iteration_of_benchmark"]
    assert len(steps) == len(log.lines) - first
    assert sum(len(own) for own in steps.tokens) == benchmark.output_tokens.sum()


@pytest.mark.parametrize("name", ["pp1_async_moderate", "pp2_moderate"])
def test_the_members_of_a_line_are_those_that_were_recorded(bench_cpu: Path, name: str):
    run = bench_cpu / name
    benchmark = read_benchmark(str(run / "bench.json"))
    log = read_server_log(str(run / "server.log.gz"))
    steps = match_log(log, benchmark, 2 if name.startswith("pp2") else 1, caches=False)
    with gzip.open(run / "steps.jsonl.gz", "rt") as file:
        recorded = [json.loads(line) for line in file]
    assert len(recorded) == len(steps)
    for place, row in enumerate(recorded):
        prefill = sum(new for _, new, _ in row["s"] if new > 1)
        contexts = [before for _, new, before in row["s"] if new == 1]
        assert steps.prefill_tokens[place] == prefill
        assert steps.decodes[place] == len(contexts)
        assert steps.decode_context[place] == sum(contexts)


def test_a_log_of_another_run(tmp_path: Path):
    truth = fitted_truth(random.Random(1))
    made = make(tmp_path / "this", 1, truth, count=20, noise=0)
    other = make(tmp_path / "that", 2, truth, count=20, noise=0)
    with pytest.raises(
        UserError, match=r"is the log of another run than .*: its lines fit no more than 0 of the 20"
    ):
        match_log(read_server_log(str(other.log)), read_benchmark(str(made.bench)), 1, caches=False)


def test_clocks_that_do_not_match(tmp_path: Path):
    """Two hours later: refused, unless every line fits, as where the server has another time zone."""
    truth = fitted_truth(random.Random(1))
    made = make(tmp_path / "this", 1, truth, count=20, noise=0)
    other = make(tmp_path / "that", 2, truth, count=20, noise=0)
    for one in (made, other):
        one.log.write_text(one.log.read_text().replace("11-25 10:29:40", "11-25 12:29:40"))
    benchmark = read_benchmark(str(made.bench))
    sentence = (
        r"the clocks do not match: its iterations are of 11-25 12:29:40 to 11-25 12:29:40, the benchmark"
    )
    with pytest.raises(UserError, match=sentence):
        match_log(read_server_log(str(other.log)), benchmark, 1, caches=False)
    steps = match_log(read_server_log(str(made.log)), benchmark, 1, caches=False)
    assert steps.complete
    assert "its lines fit every request, so it is used" in steps.note


def test_a_log_without_iterations(tmp_path: Path):
    path = tmp_path / "server.log"
    path.write_text("INFO 11-25 10:29:40 hello\n")
    with pytest.raises(UserError, match="start the server with --enable-logging-iteration-details"):
        read_server_log(str(path))


def test_prefix_hits_are_read_off_the_counts(tmp_path: Path):
    """Prompts of 300 and 400 tokens of which 64 and 128 were cached: the lines hold what was computed."""
    line = "Engine 000: Iteration({}): {} context requests, {} context tokens, {} generation requests, {} generation "
    line += "tokens, iteration elapsed time: 5.00 ms, GPU KV cache usage: 1.0%"
    counts = [(1, 236, 0), (0, 0, 1), (1, 272, 0), (0, 0, 1)]
    text = "\n".join(line.format(i, cr, ct, g, g) for i, (cr, ct, g) in enumerate(counts))
    log = tmp_path / "server.log"
    log.write_text(text)
    bench = {
        "date": "",
        "duration": 1.0,
        "total_input_tokens": 700,
        "input_lens": [300, 400],
        "output_lens": [2, 2],
        "ttfts": [0.1, 0.1],
        "itls": [[0.01], [0.01]],
        "latencies": [0.11, 0.11],
        "start_times": [1.0, 2.0],
        "errors": ["", ""],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(bench))
    steps = match_log(read_server_log(str(log)), read_benchmark(str(path)), 1, caches=True)
    assert steps.complete
    assert steps.cached_tokens.tolist() == [64, 128]
    assert np.array_equal(steps.prefill_context, [64, 0, 128, 0])
