"""``penstock llmservingsim``: upstream's bench, profiler and generators, with their options."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from penstock.workload.formats import load_workload
from serving.tools import app

REQUESTS = 4


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A measured run of four requests, a second apart, each of 10 tokens: TTFT 0.5 s, then a token each 0.1 s."""
    directory = tmp_path / "bench"
    directory.mkdir()
    meta = {"schema_version": 1, "model": "m", "vllm_version": "0.19.0", "engine_kwargs": {}}
    (directory / "meta.json").write_text(json.dumps(meta))
    with (directory / "requests.jsonl").open("w") as file:
        for number in range(REQUESTS):
            row: dict[str, Any] = {"request_id": f"bench-{number}", "input_toks": 5, "output_toks": 10}
            row |= {"arrival_time": 1e9 + number, "queued_ts": 100.0 + number, "scheduled_ts": 100.1 + number}
            row |= {"first_token_ts": 100.5 + number, "last_token_ts": 101.4 + number}
            file.write(json.dumps(row) + "\n")
    series = ["t,prompt_throughput,gen_throughput,running,waiting,kv_cache_pct"]
    series += ["1.0,20.0,6.0,1,0,0.1", "2.0,20.0,10.0,2,0,0.1"]
    (directory / "timeseries.csv").write_text("\n".join(series) + "\n")
    return directory


def simulated(path: Path, *, ttft_ns: int = 400_000_000, outputs: int = 10, first: int = 0) -> Path:
    """A CSV of requests as ``python -m serving`` writes it, in another order than their ids."""
    lines = ["instance id,request id,model,input,output,arrival,end_time,latency,queuing_delay,TTFT,TPOT,ITL"]
    for number in reversed(range(first, first + REQUESTS)):
        arrival, latency = number * 10**9, ttft_ns + 9 * 10**8
        lines.append(f"0,{number},m,5,{outputs},{arrival},{arrival + latency},{latency},0,{ttft_ns},{10**8},")
    path.write_text("\n".join(lines) + "\n")
    return path


def called(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def validate(run_dir: Path, csv: Path, *more: object) -> Result:
    return called("bench", "validate", "--bench-dir", run_dir, "--sim-csv", csv, *more)


def test_a_simulated_csv_beside_a_measured_run(run_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "sim.log"
    log.write_text(
        "noise\n├─[1.0s] Avg prompt throughput: 19.0 tokens/s, Avg generation throughput: 7.5 tokens/s\n"
        "  Running Instance[0]: 2 reqs, Waiting: 1 reqs\n  Running Instance[1]: 3 reqs, Waiting: 0 reqs\n"
    )
    csv = simulated(tmp_path / "sim.csv")
    told = validate(run_dir, csv, "--sim-log", log, "--prefix", "a_", "--title", "One beside the other")
    assert told.exit_code == 0, told.output
    summary = (run_dir / "validation" / "a_summary.txt").read_text()
    assert re.search(r"TTFT +mean +0.500 s +0.400 s +-20.0%", summary)
    assert re.search(r"TPOT +p95 +100.00 ms +100.00 ms +[+-]0.0%", summary)
    assert re.search(r"latency +p99 +1.400 s +1.300 s +-7.1%", summary)
    page = (run_dir / "validation" / "a_validation.html").read_text()
    for text in ("One beside the other", "Generation throughput", "Requests waiting"):
        assert text in page


def test_the_log_of_instances_is_added_up(tmp_path: Path) -> None:
    from penstock.validate.throughput import read_log

    path = tmp_path / "sim.log"
    path.write_text(
        "[1.0s] Avg prompt throughput: 19.0 tokens/s, Avg generation throughput: 7.5 tokens/s\n"
        "  Running Instance[0]: 2 reqs, Waiting: 1 reqs\n  Running Instance[1]: 3 reqs, Waiting: 4 reqs\n"
        "[2.0s] Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 8 tokens/s\n"
        "  Running Instance[0]: 1 reqs, Waiting: 0 reqs\n"
    )
    log = read_log(path)
    assert [log.seconds.tolist(), log.prompt_per_s.tolist(), log.decode_per_s.tolist()] == [
        [1.0, 2.0],
        [19.0, 0.0],
        [7.5, 8.0],
    ]
    assert [log.running.tolist(), log.waiting.tolist()] == [[5.0, 1.0], [5.0, 0.0]]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outputs": 11}, "is of another workload than the run: 4 requests have other output lengths"),
        ({"first": 1}, "its request ids are not the run's"),
        ({"ttft_ns": -1}, "holds what is no time in nanoseconds"),
    ],
)
def test_a_csv_of_something_else_is_refused(
    run_dir: Path, tmp_path: Path, changes: dict[str, int], told: str
) -> None:
    result = validate(run_dir, simulated(tmp_path / "sim.csv", **changes))
    assert result.exit_code == 2
    assert told in " ".join(result.output.split())
    assert not (run_dir / "validation").exists()


def test_a_log_without_its_lines_is_refused(run_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "sim.log"
    log.write_text("nothing of the kind\n")
    result = validate(run_dir, simulated(tmp_path / "sim.csv"), "--sim-log", log)
    assert (result.exit_code, "has no line '[1.0s] Avg" in result.output) == (2, True)


def test_an_output_is_no_input(run_dir: Path) -> None:
    csv = simulated(run_dir / "summary.txt")
    before = csv.read_bytes()
    result = validate(run_dir, csv, "--output-subdir", ".")
    assert result.exit_code == 2
    assert csv.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bench", "run", "--model", "m", "--dataset", "d", "--output-dir", "o"], "drives a real vLLM"),
        (["profiler", "slice", "m", "--tp", "1", "--category", "dense"], "measured as a whole"),
        (["profiler", "profile", "m", "--hardware", "H", "--kv-cache-dtype", "fp8"], "--kv-cache-dtype"),
        (["profiler", "profile", "m", "--hardware", "H", "--variant", "fp16"], "measured as 'bf16'"),
        (["profiler", "profile", "m", "--hardware", "H", "--attention-kv-factor", "3"], "one grid"),
        (["profiler", "profile", "m", "--hardware", "H"], "unknown model"),
    ],
)
def test_what_is_not_done_says_why(arguments: list[str], told: str) -> None:
    result = called(*arguments)
    assert (result.exit_code, told in result.output) == (2, True), result.output


def test_a_bundle_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "H" / "Qwen3-32B" / "bf16").mkdir(parents=True)
    model = tmp_path / "configs" / "Qwen3-32B.json"
    model.parent.mkdir()
    shape = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64, "head_dim": 16}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}
    shape |= {"intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 1024}
    model.write_text(json.dumps(shape))
    result = called(
        *("profiler", "profile", "Qwen3-32B", "--hardware", "H", "--out-root", tmp_path),
        *("--model-config-root", model.parent),
    )
    assert (result.exit_code, "--force measures anew" in result.output) == (2, True), result.output


def generated(tmp_path: Path, *more: object) -> Any:
    output = tmp_path / "made.jsonl"
    result = called(
        *("generators", "sharegpt", "--model", "m", "--num-reqs", "40", "--sps", "2", "--output", output),
        *more,
    )
    assert result.exit_code == 0, result.output
    return load_workload(output)


def test_lengths_of_chats_within_the_limits(tmp_path: Path) -> None:
    workload = generated(tmp_path, "--max-input-toks", 600, "--min-output-toks", 600, "--max-kv-toks", 1200)
    assert workload.input_tokens.max() <= 600 <= workload.output_tokens.min()
    assert (workload.input_tokens + workload.output_tokens).max() <= 1200
    assert len(set(workload.input_tokens.tolist())) > 10


def test_pulses_of_like_requests(tmp_path: Path) -> None:
    fixed = ("--fix-len", "--fix-input-length", 100, "--pulse", "--pulse-n", 20, "--first-arrival-sec", 3)
    workload = generated(tmp_path, *fixed)
    assert set(workload.arrival_ns.tolist()) == {3 * 10**9, 63 * 10**9}
    assert (set(workload.input_tokens.tolist()), set(workload.output_tokens.tolist())) == ({100}, {512})
    spread = generated(tmp_path, *fixed, "--pulse-poisson").arrival_ns.tolist()
    assert (spread[0], spread[20]) == (3 * 10**9, 63 * 10**9)
    assert all(before < after for before, after in pairwise(spread[:20]))


def test_conversations_are_counted_by_the_models_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "one": 1, "two": 2, "three": 3}
    model = tokenizers.models.WordLevel(vocab=words, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    source = tmp_path / "sharegpt.json"
    conversations = [
        [{"from": "human", "value": "one two"}, {"from": "gpt", "value": "one two three"}],
        [{"from": "human", "value": "nobody answers"}],
        [{"from": "human", "value": "one"}, {"from": "gpt", "value": ""}],
    ]
    source.write_text(json.dumps([{"id": str(i), "conversations": c} for i, c in enumerate(conversations)]))
    workload = generated(tmp_path, "--source", source, "--model", tmp_path)
    assert (set(workload.input_tokens.tolist()), set(workload.output_tokens.tolist())) == ({2}, {3})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "is no list of conversations"),
        ('[{"id": "a"}]', "has no conversations"),
        ("[]", "no request has"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path: Path, text: str, told: str) -> None:
    source = tmp_path / "sharegpt.json"
    source.write_text(text)
    output = tmp_path / "made.jsonl"
    result = called(
        *("generators", "sharegpt", "--num-reqs", 1, "--sps", 1, "--output", output, "--source", source),
        *("--model", _plain_tokenizer(tmp_path)),
    )
    assert (result.exit_code, told in result.output, output.exists()) == (2, True, False), result.output


def _plain_tokenizer(directory: Path) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab={"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory
