from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import penstock
from imported import imported
from penstock.cli.main import main
from penstock.rendering.request_csv import CSV_COLUMNS
from serving.__main__ import main as serving_main

CLUSTER = "configs/cluster/single_node_pp_instance.json"
TWO_INSTANCES = "configs/cluster/single_node_two_instances.json"


@pytest.fixture(autouse=True)
def _in_the_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"input_toks": 40 + 7 * place, "output_toks": 5 + place % 4, "arrival_time_ns": place * 20_000_000}
        for place in range(20)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def call(*arguments: object, command: str | None = "run") -> int:
    """The exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments], command=command)
    code = caught.value.code
    return code if isinstance(code, int) else 0


def serve(*arguments: object) -> int:
    """The exit code of ``python -m serving``, run in this process."""
    with pytest.raises(SystemExit) as caught:
        serving_main([str(argument) for argument in arguments])
    code = caught.value.code
    return code if isinstance(code, int) else 0


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def errors(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The messages of a run that was refused: nothing on stdout, nothing on stderr but one line each."""
    captured = capsys.readouterr()
    assert not captured.out
    lines = captured.err.splitlines()
    assert all(line.startswith("error: ") for line in lines), captured.err
    return [line.removeprefix("error: ") for line in lines]


# --- runs ---------------------------------------------------------------------------------------------------


def test_a_run_writes_its_csv_its_log_and_its_summary(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "deep" / "run.csv"
    assert (
        call("--cluster-config", CLUSTER, "--dataset", trace, "--output", output, "--log-interval", 0.1) == 0
    )
    rows = rows_of(output)
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [int(row["request id"]) for row in rows] == list(range(20))
    assert len(json.loads(rows[3]["ITL"])) == int(rows[3]["output"]) - 1
    captured = capsys.readouterr()
    assert "[INFO] step=" in captured.out
    assert "20 finished" in captured.out
    assert not captured.err


def test_notices_are_said_once_and_remarks_only_when_asked(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--cluster-config",
        CLUSTER,
        "--dataset",
        trace,
        "--inputs-root",
        "x",
        "--results",
        tmp_path / "r",
    )
    assert serve(*options) == 0
    captured = capsys.readouterr()
    assert captured.err == "notice: --inputs-root: has no effect: no intermediate inputs are written\n"
    assert "notice:" not in captured.out
    saved = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert saved["summary"]["notices"] == ["--inputs-root: has no effect: no intermediate inputs are written"]
    assert any("cpu_mem" in remark for remark in saved["inputs"]["remarks"])
    assert serve(*options, "--log-level", "INFO") == 0
    assert "cpu_mem has no effect" in capsys.readouterr().err


def test_llmservingsims_words_and_names_of_runs(
    trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "{run_id}.csv"
    options = ("--cluster-config", CLUSTER, "--log-interval", 0.1)
    assert serve(*options, "--dataset", trace, "--output", output, "--run-id", "seven") == 0
    assert rows_of(tmp_path / "seven.csv")
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("[INFO] step=") for line in lines) == sum(
        "Avg prompt throughput: " in line and "Avg generation throughput: " in line for line in lines
    )
    assert any(re.fullmatch(r"  Running Instance\[0\]: \d+ reqs, Waiting: \d+ reqs", line) for line in lines)
    assert serve(*options) == 0  # without a dataset its own 16 requests
    assert "16: 16 finished" in capsys.readouterr().out


def test_no_itl_leaves_that_column_empty(trace: Path, tmp_path: Path) -> None:
    output = tmp_path / "run.csv"
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--output", output, "--no-itl") == 0
    assert {row["ITL"] for row in rows_of(output)} == {""}


def test_results_hold_tables_and_inputs(trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--results", folder, "--seed", 3) == 0
    assert {"requests.parquet", "steps.parquet", "stages.parquet", "summary.json"} <= set(names_in(folder))
    inputs = json.loads((folder / "summary.json").read_text())["inputs"]
    assert inputs["cluster"] == CLUSTER
    assert inputs["given"]["seed"] == 3
    assert inputs["instances"][0]["pp_size"] == 2


def test_record_chooses_how_much_is_kept(trace: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    assert (
        call("--cluster-config", CLUSTER, "--dataset", trace, "--results", folder, "--record", "requests")
        == 0
    )
    assert "requests.parquet" in names_in(folder)
    assert not {"steps.parquet", "stages.parquet"} & set(names_in(folder))


def test_two_runs_write_the_same_bytes(trace: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        options = ("--router", "RAND", "--results", folder, "--output", folder / "run.csv")
        assert call("--cluster-config", TWO_INSTANCES, "--dataset", trace, *options) == 0
    names = names_in(first)
    assert names == names_in(second)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_num_reqs_serves_the_first_few(trace: Path, tmp_path: Path) -> None:
    output = tmp_path / "run.csv"
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--num-reqs", 3, "--output", output) == 0
    assert len(output.read_text().splitlines()) == 4


def test_a_log_interval_of_zero_is_no_log(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--log-interval", 0) == 0
    assert "[INFO]" not in capsys.readouterr().out


def test_log_levels(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--log-level", "DEBUG") == 0
    captured = capsys.readouterr()
    assert "20 requests from" in captured.err
    assert "InstanceSpec(" in captured.err


ROUTER = """
class Last:
    def route(self, request, instances):
        return len(instances) - 1, "last"

class Lost:
    def route(self, request, instances):
        return len(instances), "nowhere"

class Broken:
    def route(self, request, instances):
        return {}["no such key"]
"""


@pytest.mark.parametrize(
    "program",
    [
        ["penstock", "run"],
        [sys.executable, "-m", "serving", "--request-routing-policy", "CUSTOM"],
    ],
)
def test_a_router_of_the_user_s_is_found_in_the_current_directory(
    program: list[str], repository: Path, trace: Path, tmp_path: Path
) -> None:
    (tmp_path / "my_routers.py").write_text(ROUTER)
    command = [*program, "--cluster-config", str(repository / TWO_INSTANCES), "--dataset", str(trace)]
    command += ["--output", "run.csv", "--router"]
    subprocess.run([*command, "my_routers:Last"], cwd=tmp_path, check=True, capture_output=True)
    assert {row["instance id"] for row in rows_of(tmp_path / "run.csv")} == {"1"}


@pytest.mark.parametrize(
    ("router", "words"),
    [
        ("Lost", "asked for request 0, chose instance 2 of 2 (from 0)"),
        ("Broken", "asked for request 0, raised KeyError: 'no such key' ("),
    ],
)
def test_a_router_that_goes_wrong_is_the_user_s_mistake(
    router: str,
    words: str,
    trace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "routers_of_a_test.py").write_text(ROUTER)
    monkeypatch.syspath_prepend(tmp_path)
    options = ("--router", f"routers_of_a_test:{router}", "--output", tmp_path / "run.csv")
    assert call("--cluster-config", TWO_INSTANCES, "--dataset", trace, *options) == 2
    assert f"error: --router: routers_of_a_test:{router}, {words}" in capsys.readouterr().err
    assert not (tmp_path / "run.csv").exists()


def test_python_m_serving_is_the_same_program(trace: Path, tmp_path: Path) -> None:
    output = tmp_path / "run.csv"
    again = tmp_path / "again.csv"
    options = ["--cluster-config", CLUSTER, "--dataset", str(trace), "--output"]
    subprocess.run([sys.executable, "-m", "serving", *options, str(output)], check=True, capture_output=True)
    assert call(*options, again) == 0
    assert output.read_bytes() == again.read_bytes()


def test_every_option_of_llmservingsim_is_accepted(trace: Path, tmp_path: Path) -> None:
    line = (
        "--num-reqs 0 --log-interval 1.0 --log-level WARNING --dtype float16 --kv-cache-dtype auto --block-size 16 "
        "--max-num-seqs 128 --max-num-batched-tokens 2048 --long-prefill-token-threshold 0 --enable-chunked-prefill "
        "--no-enable-prefix-caching --npu-memory-utilization 0.9 --reserve-full-isl --request-routing-policy LOAD "
        "--expert-routing-policy BALANCED --no-enable-prefix-sharing --network-backend analytical --run-id x "
        "--inputs-root /tmp --no-cleanup-inputs"
    )
    output = tmp_path / "run.csv"
    assert serve("--cluster-config", CLUSTER, "--dataset", trace, "--output", output, *line.split()) == 0
    assert output.exists()
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--run-id", "x") == 2


# --- mistakes -----------------------------------------------------------------------------------------------


def test_all_mistakes_at_once_and_nothing_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace.jsonl").write_text('{"input_toks": -1, "output_toks": 1, "arrival_time_ns": 0}\n{\n')
    (tmp_path / "c.json").write_text('{"num_nodes": 1, "link_bw": 0, "link_latency": 0, "nodes": []}')
    output = tmp_path / "out" / "run.csv"
    options = ["--block-size", "many", "--max-num-seqs", "-1", "--dtype", "fp16", "--log-level", "LOUD"]
    options += ["--skip-prefill", "--results", str(tmp_path / "c.json")]
    code = serve(
        "--cluster-config",
        tmp_path / "c.json",
        "--dataset",
        tmp_path / "trace.jsonl",
        "--output",
        output,
        *options,
    )
    assert code == 2
    found = errors(capsys)
    for start in (
        "--results: ",
        "--log-level: must be one of",
        "--block-size: must be an integer, not 'many'",
        "--max-num-seqs: must be >= 0, not -1",
        "--dtype: must be",
        "--skip-prefill: runs without prefill are not simulated",
        f"{tmp_path}/c.json: link_bw: must be >= 1e-06, not 0",
        f"{tmp_path}/c.json: num_nodes: says 1, but nodes has 0",
        f"{tmp_path}/trace.jsonl:1",
        f"{tmp_path}/trace.jsonl:2",
    ):
        assert any(line.startswith(start) for line in found), (start, found)
    assert names_in(tmp_path) == ["c.json", "trace.jsonl"]


def test_what_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    assert errors(capsys) == [
        "CLUSTER: is required: a cluster config, or --model and --hardware",
        "--dataset: is required, or --rate: so many chat requests a second, drawn by the seed",
    ]


def test_a_model_that_does_not_fit(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--npu-memory-utilization", 0.05, "--output", tmp_path / "x.csv")
    assert call("--cluster-config", CLUSTER, "--dataset", trace, *options) == 2
    (message,) = errors(capsys)
    assert "does not fit" in message
    assert message.startswith(f"{CLUSTER}: nodes[0].instances[0]")
    assert not (tmp_path / "x.csv").exists()


def test_an_input_is_never_overwritten(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = trace.read_bytes()
    assert call("--cluster-config", CLUSTER, "--dataset", trace, "--output", trace) == 2
    assert "an input of this run" in errors(capsys)[0]
    assert trace.read_bytes() == before


@pytest.mark.parametrize("router", ["LOUD", "no_such_module_at_all:Router", "json:NoSuchClass"])
def test_routers_that_do_not_exist(router: str, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--cluster-config", TWO_INSTANCES, "--dataset", trace, "--router", router) == 2
    assert errors(capsys)[0].startswith("--router: ")


def test_unknown_options_and_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--bloc-size", 3) == 2
    assert "--block-size" in capsys.readouterr().err
    assert call("rum", command=None) == 2
    assert "did you mean 'run'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", ["--cluster-config", "--dataset", "--output", "--results", "--trace", "--report"]
)
def test_an_empty_path_is_no_path(option: str, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--cluster-config": CLUSTER, "--dataset": str(trace)} | {option: ""}
    assert call(*(word for pair in given.items() for word in pair)) == 2
    assert errors(capsys) == [f"{option}: must not be empty"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
@pytest.mark.parametrize(
    "option", ["--cluster-config", "--dataset", "--output", "--results", "--profile-root"]
)
def test_names_that_no_file_can_have(
    option: str, name: str, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--cluster-config": CLUSTER, "--dataset": str(trace)} | {option: name}
    assert call(*(word for pair in given.items() for word in pair)) == 2
    (message,) = errors(capsys)
    assert ("File name too long" in message) or ("null byte" in message)


def test_an_unknown_policy_and_router_are_told_with_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads(Path(CLUSTER).read_text())
    config["nodes"][0]["instances"][0]["policy"] = "gllmm"
    (tmp_path / "c.json").write_text(json.dumps(config))
    options = ("--router", "LOTS", "--log-interval", "1e-6")
    assert call("--cluster-config", tmp_path / "c.json", "--dataset", tmp_path / "none", *options) == 2
    found = errors(capsys)
    assert len(found) == 4
    assert found[0] == "--log-interval: must be 0 (no log) or >= 0.001 seconds, not 1e-06"
    assert found[1].startswith(f"{tmp_path}/none: cannot be read")
    assert found[2].startswith("--router: no router 'LOTS'")
    assert found[3].startswith(f"{tmp_path}/c.json: nodes[0].instances[0].policy: no policy 'gllmm'")


@pytest.fixture
def long_run(tmp_path: Path) -> list[str]:
    """The command line of a run that takes a while, with all its files in ``tmp_path / "out"``."""
    trace = tmp_path / "trace.jsonl"
    with trace.open("w") as file:
        for place in range(30_000):
            file.write(
                f'{{"input_toks": 100, "output_toks": 200, "arrival_time_ns": {place * 50_000_000}}}\n'
            )
    out = tmp_path / "out"
    files = {"--output": "run.csv", "--trace": "t.json.gz", "--report": "r.html", "--results": "results"}
    names = [word for option, name in files.items() for word in (option, str(out / name))]
    return [sys.executable, "-m", "serving", "--cluster-config", CLUSTER, "--dataset", str(trace), *names]


def signalled(words: list[str], number: signal.Signals, inherited: signal.Handlers) -> tuple[int, str]:
    """Exit code and stderr of a run that is sent a signal once it has logged a line.

    What the signal does at the start is set here: a process inherits that SIGHUP is ignored from ``nohup``.
    """
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, inherited),
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[INFO]"):
                break
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_ended_leaves_nothing_half_written(
    number: signal.Signals, long_run: list[str], tmp_path: Path
) -> None:
    code, err = signalled(long_run, number, signal.SIG_DFL)
    assert code == 128 + number
    assert err.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "out").exists()


def test_a_run_under_nohup_goes_on(long_run: list[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(trace.read_text().splitlines(keepends=True)[:2000]))
    code, err = signalled(long_run, signal.SIGHUP, signal.SIG_IGN)
    assert code == 0, err
    assert (tmp_path / "out" / "run.csv").exists()


def test_a_reader_that_has_seen_enough(long_run: list[str], tmp_path: Path) -> None:
    with subprocess.Popen(long_run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        err = process.stderr.read()
    assert process.returncode == 141
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--help"], ["--cluster-config", CLUSTER]])
def test_an_output_that_is_full(words: list[str], trace: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "serving", *words, "--dataset", str(trace)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "error: cannot read or write: No space left on device\n"


def test_a_closed_stderr_is_no_mistake(trace: Path) -> None:
    line = f"{sys.executable} -m serving --cluster-config {CLUSTER} --dataset {trace} 2>&-"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "notice" not in done.stdout


# --- the rest -----------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom penstock.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'polars', 'pydantic', 'plotly', 'rich', 'optuna', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run" in done.stdout


def test_a_plain_run_imports_only_what_it_uses(trace: Path, tmp_path: Path) -> None:
    """Each of these takes more time to import than the engine takes for some hundred requests."""
    arguments = [
        "run",
        "--cluster-config",
        CLUSTER,
        "--dataset",
        str(trace),
        "--output",
        str(tmp_path / "a.csv"),
    ]
    unused = {"numpy.ma", "polars", "rich", "scipy", "yaml"}
    unused |= {
        "penstock." + name for name in ("engine.autoscaler", "engine.observer", "explore.design_point")
    }
    unused |= {"penstock." + name for name in ("workload.generate", "workload.offered_load")}
    assert imported(arguments, unused) == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version", command=None) == 0
    assert penstock.__version__ in capsys.readouterr().out


def test_simulate_from_python(trace: Path) -> None:
    result = penstock.simulate(CLUSTER, trace, max_num_seqs=4)
    assert len(result.requests) == 20
    assert result.summary.requests.finished == 20
    assert result.stages["stage"].unique().sort().to_list() == [0, 1]


def test_hashes_and_directories_change_no_byte(repository: Path, trace: Path, tmp_path: Path) -> None:
    config = repository / TWO_INSTANCES
    for name, seed in (("a", "1"), ("b", "4711")):
        out = tmp_path / name
        out.mkdir()
        options = ["--router", "PREFIX", "--output", str(out / "run.csv"), "--results", str(out / "results")]
        options += ["--trace", str(out / "t.json.gz"), "--report", str(out / "r.html")]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "serving",
                "--cluster-config",
                str(config),
                "--dataset",
                str(trace),
                *options,
            ],
            cwd=out,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) > 6
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_simulate_refuses_unknown_options(trace: Path) -> None:
    options: dict[str, Any] = {"max_num_seq": 4}
    with pytest.raises(penstock.UserError, match="did you mean 'max_num_seqs'"):
        penstock.simulate(CLUSTER, trace, **options)


def test_simulate_takes_loaded_specs(trace: Path) -> None:
    cluster = penstock.load_cluster(CLUSTER)
    workload = penstock.load_workload(trace)
    assert penstock.simulate(cluster, workload, record="requests").summary.requests.finished == 20
    with pytest.raises(penstock.UserError, match="loaded already"):
        penstock.simulate(cluster, workload, block_size=8)


def test_the_name_of_a_missing_attribute_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = penstock.simulat  # pyright: ignore[reportAttributeAccessIssue]
