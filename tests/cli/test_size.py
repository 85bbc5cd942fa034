"""``penstock size``: a row per way to buy, why the others cannot, and commands that run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli.main import app

REQUESTS = "".join(
    json.dumps({"input_toks": 50 + 13 * (n % 17), "output_toks": 4 + n % 9, "arrival_time_ns": n * 10**7})
    + "\n"
    for n in range(100)
)


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_a_question_is_answered_in_one_table_with_commands_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requests.jsonl").write_text(REQUESTS)
    question = [
        *("size", "--model", "meta-llama/Llama-3.1-8B", "--rate", "30", "--workers", "1"),
        *("--slo", "ttft_p90<500ms,tpot_p90<40ms", "--hardware", "H100:1,L4:1,T4:1"),
        *("--workload", "requests.jsonl", "--max-requests", "300", "--price", "H100=2"),
    ]
    code, text, error = invoke(*question)
    assert (code, error) == (0, "wrote 2 files to size-results\n")
    (row,) = [line for line in text.splitlines() if line.startswith("H100, TP1")]
    for words in ("1 of 1", "2.00", "1,460", "700"):
        assert words in row
    assert "1 L4 cannot" in text
    assert "1 T4 cannot: no number of them can" in text or "1 T4 cannot:" in text
    assert "does not fit" in text or "would:" in text
    (command,) = [line.strip() for line in text.splitlines() if line.strip().startswith("penstock run")]
    code, ran, error = invoke(*shlex.split(command)[1:])
    assert (code, error) == (0, "")
    assert "300 finished" in ran
    code, text, _ = invoke(*question, "--json")
    found = json.loads(text)["hardware"]
    assert [len(one["choices"]) for one in found] == [1, 0, 0]
    assert found[0]["choices"][0]["headroom"] >= 0
    assert sum(one["candidates"] for one in found) > sum(sum(one["ruled_out"].values()) for one in found) > 0


def test_mistakes_come_together() -> None:
    code, _, error = invoke(
        *("size", "--model", "meta-llama/Llama-3.1-9B", "--rate", "0", "--slo", "ttft<1s"),
        *("--hardware", "H100:x,H1000:2", "--workload", "chats", "--price", "H100"),
    )
    assert code == 2
    for words in (
        "--model: unknown model 'meta-llama/Llama-3.1-9B'",
        "--rate: must be",
        "'ttft<1s' is not a bound",
        "--hardware: 'H100:x' is not LABEL:GPUS",
        "--hardware: unknown hardware 'H1000'",
        "--workload: 'chats' is neither a file nor one of chat, sharegpt",
        "--price: 'H100' is not LABEL=USD",
    ):
        assert words in error
