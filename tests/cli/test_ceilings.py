"""What would take minutes, or more memory than there is, is refused with a sentence before it begins."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from fuzz.clusters import CLUSTER, MODEL
from fuzz.profiles import EXPERTS
from fuzz.studies import STUDY
from fuzz.workloads import FLAT
from penstock.cli.main import main
from penstock.cost.experts.measured import measured_experts
from penstock.errors import UserError

RUN = "run --cluster-config c.json --dataset w.jsonl --log-interval 0"


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text(json.dumps(CLUSTER))
    Path("w.jsonl").write_text("".join(json.dumps(row) + "\n" for row in FLAT))


def refused(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    err = capsys.readouterr().err
    assert caught.value.code == 2, err
    assert said in err
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"tp": 10**12}, "space.tp: must be <= 1024, not 1000000000000"),
        ({"pp": 10**12}, "space.pp: must be <= 1024"),
        ({"replicas": 10**6}, "space.replicas: must be a number from 1 to 100,000"),
        ({"gpus": 10**9, "replicas": "fill"}, "space.gpus: must be <= 100000"),
        ({"max_in_flight": 10**9}, "space.max_in_flight: must be a number from 1 to 1024"),
    ],
)
def test_what_a_search_multiplies(
    members: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {name: value for name, value in STUDY["space"].items() if name not in members}
    Path("s.yaml").write_text(json.dumps({**STUDY, "space": {**space, **members}}))
    refused("explore s.yaml -o r --workers 1", said, capsys)


def test_products_that_are_each_within_their_ceilings(capsys: pytest.CaptureFixture[str]) -> None:
    space = {**STUDY["space"], "tp": 1, "pp": 8, "replicas": 100_000}
    Path("s.yaml").write_text(json.dumps({**STUDY, "constraints": ["gpus<=1000000"], "space": space}))
    with pytest.raises(SystemExit):
        main(["explore", "s.yaml", "-o", "r", "--workers", "1"])
    captured = capsys.readouterr()
    assert "are more than 100,000 GPUs" in captured.out + captured.err


@pytest.mark.parametrize(
    ("model", "members", "said"),
    [
        ({"num_hidden_layers": 10**9}, {}, "num_hidden_layers: must be <= 4096"),
        (
            {"num_hidden_layers": 2000},
            {"num_npus": 1000, "pp_size": 1000, "pp_layer_partition": "auto"},
            "cannot balance 2000 layers over 1000 stages in seconds",
        ),
        ({}, {"max_in_flight": 10**9}, "max_in_flight: must be <= 1024"),
        ({}, {"data_parallel_size": 10**6}, "data_parallel_size: must be <= 1024"),
    ],
)
def test_layers_and_stages(
    model: dict[str, Any], members: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("m.json").write_text(json.dumps({**MODEL, **model}))
    config = json.loads(json.dumps(CLUSTER))
    config["nodes"][0]["instances"][0] |= {"model_name": "m.json", "pp_layer_partition": None, **members}
    Path("c.json").write_text(json.dumps(config))
    refused(RUN, said, capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-n 1000000000000", "--num-requests: must be from 1 to 100,000,000"),
        ("-n 5 --prefix-groups 100000000 --prefix-tokens 10000000", "--prefix-groups: 100,000,000 groups of"),
        ("-n 5 --max-input 1000000000000", "--max-input: must be from"),
    ],
)
def test_requests_and_prefix_groups(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(f"workload generate --preset sharegpt -o o.jsonl {words}", said, capsys)


def test_a_packed_line_without_an_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.files.reading.MAX_LINE_BYTES", 1 << 20)
    Path("b.gz").write_bytes(gzip.compress(b"9" * (3 << 20)))
    refused("workload info b.gz", "b.gz:1: the line holds more than 1 MiB", capsys)


def test_a_flood_of_blank_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("penstock.files.reading.MAX_BLANK_LINES", 1000)
    Path("b.gz").write_bytes(gzip.compress(b"\n" * 5000))
    refused("workload info b.gz", "b.gz:1001: 1,000 blank lines in a row", capsys)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_is_read_whole_is_no_more_than_a_part_of_the_memory(
    packed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.files.reading.machine_bytes", lambda: 16 << 20)
    data = b"[" + b" " * (2 << 20) + b"]"
    Path("c.json").write_bytes(gzip.compress(data) if packed else data)
    refused(RUN, "c.json: holds more than 1 MiB", capsys)


def test_a_run_that_this_machine_cannot_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("penstock.workload.footprint.machine_bytes", lambda: 1000)
    refused(RUN, "w.jsonl: 4 requests take", capsys)


@pytest.mark.parametrize(
    "row", ["0,1024,2,8,1,1,bfloat16,9,balanced,x,1", "512,1024,2,8,1,1,bfloat16,9,balanced,x,nan"]
)
def test_expert_times_of_no_size(row: str, tmp_path: Path) -> None:
    path = tmp_path / "moe_perf.csv"
    path.write_text(f"{EXPERTS}{row}\n")
    with pytest.raises(UserError, match="row 4 holds a size or a time that is none"):
        measured_experts(path, None, "bfloat16", (None, 1, 1), None)  # pyright: ignore[reportArgumentType]
