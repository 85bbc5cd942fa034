"""What once gave a traceback, hung or took all memory gives one sentence, and leaves nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fuzz.benchmarks import MEASURED
from fuzz.clusters import CLUSTER, MODEL
from fuzz.hostile import commands
from fuzz.kind import write
from fuzz.profiles import ATTENTION, BUNDLE_META, DENSE, HEADS, VIDUR, real_turns
from fuzz.recordings import APART, CONFIG, GROUP, META, RECORDING, REQUESTS, TIER
from fuzz.workloads import AZURE, FLAT
from penstock.cli.main import main


def call(words: str | list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words.split() if isinstance(words, str) else words)
    return int(caught.value.code or 0)


def lines(values: list[Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text(json.dumps(CLUSTER))
    Path("w.jsonl").write_text(lines(FLAT))


def refused(words: str | list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and messages of one line each, one of which says it."""
    before = sorted(Path().rglob("*"))
    assert call(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    assert all(len(line) < 600 for line in err.splitlines())
    assert sorted(Path().rglob("*")) == before


GENERATE = "workload generate -n 5 --preset sharegpt -o o.jsonl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (f"{GENERATE} --rate nan", "--rate: must be a number from 1e-6 to 1e9"),
        (f"{GENERATE} --rate inf", "--rate: must be"),
        (f"{GENERATE} --burstiness nan", "--burstiness: must be"),
        (f"{GENERATE} --tool-duration-ms inf", "--tool-duration-ms: must be from 0"),
        (f"{GENERATE} --tool-duration-ms nan", "--tool-duration-ms: must be from 0"),
        (f"{GENERATE} --max-input 100000000000000000000", "--max-input: must be from"),
        (f"{GENERATE} --max-output 100000000000000000000", "--max-output: must be from"),
        (
            f"{GENERATE} --prefix-groups 100000000 --prefix-tokens 10000000",
            "--prefix-groups: 100,000,000 groups of",
        ),
        (f"{GENERATE} --input-toks lognormal:1e308,1e308", "--input-toks: mean must be"),
        (f"{GENERATE} --arrivals mmpp --rate 1e9", "--bursts: a state of them would bring"),
        (f"{GENERATE} --arrivals mmpp --rate 1e-6 --bursts 2,0.5,0.001", "--bursts: so many requests take"),
        (f"{GENERATE} --seed -1", "--seed: must be"),
        ("workload generate -n 100000000000000000000 --preset sharegpt", "--num-requests: must be from 1"),
        (
            "workload generate -n 1000000 --rate 1e-6 --arrivals constant --preset sharegpt -o o",
            "--rate: 1,000,000 requests",
        ),
        ("advise c.json --dataset w.jsonl --option x=" + "[" * 5000, "unknown option"),
        ("run --cluster-config ~nobody/c.json --dataset w.jsonl", "the shell has not expanded '~nobody'"),
        ("run --cluster-config c.json --dataset w.jsonl --output ~/x.csv", "the shell has not expanded '~'"),
        (
            "run --cluster-config c.json --dataset w.jsonl --router builtins:int",
            "cannot make builtins:int",
        ),
        (
            "capacity c.json --dataset w.jsonl --slo ttft_p99<9s --think-time=/",
            "--think-time: must be a number",
        ),
        (
            "capacity c.json --dataset w.jsonl --slo ttft_p99<9s --think-time nan",
            "--think-time: must be a finite",
        ),
    ],
)
def test_options_that_make_no_sense(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(words, said, capsys)


@pytest.mark.parametrize("stamp", ["0001-01-01 00:00:00", "9999-12-31 23:59:59", "2023-11-16 18:17:00+99:99"])
def test_timestamps_out_of_range(stamp: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.csv").write_text(AZURE + f"{stamp},1,1\n")
    refused("workload info a.csv", "a.csv:6: TIMESTAMP must be like", capsys)


def instance(**members: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(CLUSTER))
    config["nodes"][0]["instances"][0] |= members
    return config


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"model_name": "~nobody-at-all/m"}, "unknown model '~nobody-at-all/m'"),
        ({"model_name": "\ud800"}, "half a surrogate pair"),
        ({"\ud800": 1}, "half a surrogate pair"),
        ({"policy": "builtins:int"}, "builtins:int has no method limits"),
        ({"policy": "vllm(1)"}, "'1' is not an argument"),
        ({"block_size": 10**400}, "block_size: must be"),
        (
            {"max_num_batched_tokens": 4},
            "max_num_batched_tokens: 4 is below max_num_seqs 8: vLLM does not start",
        ),
        (
            {"enable_chunked_prefill": False, "max_num_batched_tokens": 2048},
            "enable_chunked_prefill: is off, so max_num_batched_tokens 2048 must hold a prompt of max_model_len",
        ),
        (
            {"npu_mem": {"mem_size": 12, "mem_bw": 1000}, "max_model_len": 100_000},
            "max_model_len: 100000 tokens take 6250 KV blocks, the memory leaves",
        ),
        (
            {"long_prefill_token_threshold": 200, "max_model_len": 100},
            "long_prefill_token_threshold: 200 is above max_model_len 100",
        ),
    ],
)
def test_configs_that_are_refused(
    members: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.json").write_text(json.dumps(instance(**members)))
    refused("run --cluster-config c.json --dataset w.jsonl --output o.csv", said, capsys)


@pytest.mark.parametrize(
    "members",
    [{}, {"max_model_len": 100_000, "engine": "sglang"}, {"max_model_len": 100_000, "num_gpu_blocks": 100}],
)
def test_a_context_that_nobody_chose_may_be_longer_than_the_pool(members: dict[str, Any]) -> None:
    small = {"mem_size": 12, "mem_bw": 1000}
    Path("c.json").write_text(json.dumps(instance(npu_mem=small, **members)))
    assert call("run --cluster-config c.json --dataset w.jsonl --log-interval 0") == 0


def test_stages_that_cannot_be_balanced_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.json").write_text(json.dumps({**MODEL, "num_hidden_layers": 2000}))
    members = {"model_name": "m.json", "num_npus": 1000, "pp_size": 1000, "pp_layer_partition": "auto"}
    Path("c.json").write_text(json.dumps(instance(**members)))
    refused("run --cluster-config c.json --dataset w.jsonl", "give the layers of each stage", capsys)


def without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("recording", "said"),
    [
        ({**RECORDING, "config": 7}, "r.json: config: must be an object"),
        ({**RECORDING, "config": without(CONFIG, "block_size")}, "r.json: config: missing key 'block_size'"),
        ({**RECORDING, "config": {**CONFIG, "block_size": 0}}, "config.block_size: must be >= 1, not 0"),
        (
            {**RECORDING, "config": {**CONFIG, "stages": [{"a": "x"}]}},
            "config.stages[0].a: must be an integer",
        ),
        ({**RECORDING, "requests": [None]}, "requests[0]: must be an object"),
        ({**RECORDING, "requests": REQUESTS * 2}, "requests: two requests have one req_id"),
        (
            {**RECORDING, "requests": [{**REQUESTS[0], "output_toks": 1 << 30}]},
            "requests[0].output_toks: must be <=",
        ),
        ({**RECORDING, "requests": [{**REQUESTS[0], "input_tok_ids": [1]}]}, "input_tok_ids: has 1 ids"),
        ({**RECORDING, "iterations": [{"iter": 0}]}, "iterations[0]: missing key 't_schedule_ns'"),
        ({**RECORDING, "iterations": [[]]}, "iterations[0]: must be an object"),
        ({**GROUP, "config": without(GROUP["config"], "latency")}, "config: missing key 'latency'"),
        (without(GROUP, "forwards"), "missing key 'forwards'"),
        (
            {**APART, "transfer": {**APART["transfer"], "bandwidth_Bps": 0}},
            "transfer.bandwidth_Bps: must be >= 1",
        ),
        ({**APART, "transfer": {**APART["transfer"], "fail": [["nobody", 0]]}}, "cannot be run again"),
        ({**APART, "instances": [{}, {}]}, "instances[0]: missing key 'name'"),
        ({**TIER, "offload": None}, "offload: must be an object"),
    ],
)
def test_recordings_that_are_none(
    recording: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("r.json").write_text(json.dumps(recording))
    refused("validate schedule r.json --dump o.jsonl", said, capsys)


def test_a_recording_that_deadlocks_does_not_end_the_validation(capsys: pytest.CaptureFixture[str]) -> None:
    config = {**CONFIG, "num_gpu_blocks": 3}
    stuck = [{**REQUESTS[0], "input_toks": 200}, {**REQUESTS[1], "arrival_time_ns": 10**12}]
    both = [
        {**RECORDING, "case": "stuck", "config": config, "requests": stuck},
        {**RECORDING, "case": "other"},
    ]
    Path("r.jsonl").write_text(lines(both))
    assert call("validate schedule r.jsonl --as-recorded") == 1
    captured = capsys.readouterr()
    assert [line.partition(":")[0] for line in captured.out.splitlines()] == [
        "stuck",
        "other",
        "0 of 2 equal",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("meta.json", "[]", "meta.json: must be an object"),
        (
            "meta.json",
            json.dumps({**META, "kv_cache": {"num_gpu_blocks": "x"}}),
            "kv_cache.num_gpu_blocks: must be",
        ),
        (
            "meta.json",
            json.dumps({**META, "engine_kwargs": {"max_model_len": {}}}),
            "engine_kwargs.max_model_len",
        ),
        (
            "requests.jsonl",
            lines([{**MEASURED[0], "queued_ts": "x"}]),
            "requests.jsonl:1: queued_ts: must be a number",
        ),
        ("requests.jsonl", lines([without(MEASURED[0], "request_id")]), "missing key 'request_id'"),
        ("requests.jsonl", "[[[[\n", "requests.jsonl:1: broken JSON"),
    ],
)
def test_measured_runs_that_are_none(
    name: str, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m").mkdir()
    for file, data in (
        ("cluster.json", json.dumps(CLUSTER)),
        ("meta.json", json.dumps(META)),
        ("requests.jsonl", lines(MEASURED)),
    ):
        Path("m", file).write_text(text if file == name else data)
    refused("validate measured m --dataset w.jsonl", said, capsys)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("summary"), "missing key 'summary'"),
        (lambda data: data["summary"].pop("latency"), "summary: missing key 'latency'"),
        (lambda data: data["summary"].update(instances=[]), "summary.instances: must not be empty"),
        (
            lambda data: data["summary"]["instances"][0].update(tp_size="x"),
            "instances[0].tp_size: must be an integer",
        ),
        (lambda data: data["inputs"].update(instances=7), "inputs.instances: must be a list"),
    ],
)
def test_results_that_are_none(change: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run --cluster-config c.json --dataset w.jsonl --results A --log-interval 0") == 0
    capsys.readouterr()
    data = json.loads(Path("A/summary.json").read_text())
    change(data)
    Path("A/summary.json").write_text(json.dumps(data))
    refused("compare A A", said, capsys)


def test_tables_of_results_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run --cluster-config c.json --dataset w.jsonl --results A --log-interval 0") == 0
    capsys.readouterr()
    Path("A/requests.parquet").write_bytes(b"PAR1PAR1")
    refused("compare A A", "A/requests.parquet: cannot be read as Parquet", capsys)


@pytest.mark.parametrize(("file", "name"), [("turns", "rank"), ("workers", "stage")])
@pytest.mark.parametrize("value", [10**30, -1, 1.5, None])
def test_ranks_and_stages_without_number(
    file: str, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write(real_turns(), Path())
    path = Path(f"t/{file}.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    rows[0][name] = value
    path.write_bytes(gzip.compress(lines(rows).encode()))
    refused("validate schedule t", f"{path}: {name}: must be an integer from 0 to 1023", capsys)


def test_one_mistake_in_a_file_of_many_readers_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("m.json").write_text("{")
    config = instance(model_name="m.json", pp_layer_partition=None)
    config["nodes"][0]["instances"] *= 3
    config["nodes"][0]["num_instances"] = 3
    Path("c.json").write_text(json.dumps(config))
    assert call("run --cluster-config c.json --dataset w.jsonl") == 2
    said = capsys.readouterr().err.splitlines()
    assert sum("broken JSON" in line for line in said) == 1, said
    assert len(said) == len(set(said))


def test_completion_is_offered_by_all_commands_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    everywhere = "--install-completion" in capsys.readouterr().out
    for words, _ in commands():
        assert call([*words, "--help"]) == 0
        assert ("--install-completion" in capsys.readouterr().out) is everywhere, words


def test_text_from_files_ends_no_element_of_a_page() -> None:
    evil = "</script><script>alert(1)</script><!--"
    Path("c.json").write_text(json.dumps(instance(engine_overhead={"source": evil})))
    assert call("run --cluster-config c.json --dataset w.jsonl --report o.html --log-interval 0") == 0
    page = Path("o.html").read_text()
    assert evil not in page
    assert "alert(1)" in page


def test_a_run_in_which_nothing_is_served_has_its_tables() -> None:
    from penstock import simulate

    result = simulate(instance(max_model_len=10), "w.jsonl")
    assert result.summary.requests.rejected == 4
    assert len(result.bubbles()) in (0, 2)


def test_a_packed_line_that_stands_for_gigabytes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.files.reading.MAX_LINE_BYTES", 1 << 20)
    Path("b.gz").write_bytes(gzip.compress(b" " * (3 << 20)))
    refused("workload info b.gz", "b.gz:1: the line holds more than 1 MiB", capsys)


def test_a_run_that_this_machine_cannot_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.workload.footprint.machine_bytes", lambda: 1000)
    refused("run --cluster-config c.json --dataset w.jsonl", "w.jsonl: 4 requests take", capsys)
    assert call("run --cluster-config c.json --dataset w.jsonl --no-check-memory --log-interval 0") == 0


def test_a_quote_that_nobody_closes(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("p/H100/meta-llama/Llama-3.1-8B/bf16/tp1")
    folder.mkdir(parents=True)
    (folder.parent / "meta.yaml").write_bytes(BUNDLE_META.encode() + b"x: \xff")
    (folder / "attention.csv").write_text(ATTENTION)
    (folder / "per_sequence.csv").write_text(HEADS)
    (folder / "dense.csv").write_text(DENSE + '"' + "x,1,2\n" * 5000)
    refused(f"profile fit {folder.parent} -o o.json", "meta.yaml: is not UTF-8 text", capsys)
    (folder.parent / "meta.yaml").write_text(BUNDLE_META)
    refused(f"profile fit {folder.parent} -o o.json", "dense.csv:", capsys)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("validate measured m --dataset w.jsonl", "m/meta.json"),
        ("compare m m", "m/summary.json"),
        ("validate pipeline m", "m/requests.jsonl.gz"),
        ("profile network m -o o.json", "m/a100_dgx/send_recv.csv"),
        ("run c.json --dataset w.jsonl --results w.jsonl", "--results: w.jsonl/summary.json"),
        ("run c.json --dataset w.jsonl --output w.jsonl/o.csv", "--output: w.jsonl/o.csv"),
    ],
)
def test_the_file_is_named_not_its_folder(words: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("m").mkdir()
    Path("m/cluster.json").write_text(json.dumps(CLUSTER))
    refused(words, f"error: {named} cannot be" if named[0] == "-" else f"error: {named}: cannot be", capsys)


@pytest.mark.parametrize(
    ("column", "cell"),
    [("n_head", "0"), ("n_embd", "-1"), ("num_tensor_parallel_workers", "99"), ("num_tokens", "0")],
)
def test_measurements_of_no_model(column: str, cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    header, first, *_ = VIDUR.splitlines()
    cells = dict(zip(header.split(","), first.split(","), strict=True)) | {column: cell}
    Path("mlp.csv").write_text(f"{header}\n{','.join(cells.values())}\n")
    line = "profile import mlp.csv -o q --hardware H100 --model a/b"
    refused(line, "error: mlp.csv:2: not a measurement: ", capsys)
