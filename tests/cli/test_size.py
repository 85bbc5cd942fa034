"""``penstock size``: a row per way to buy, why the others cannot, and commands that run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from penstock.cli.main import app
from penstock.explore.capacity import CapacityOptions
from penstock.explore.design_point import DesignPoint, Site
from penstock.explore.evaluate import make_evaluator
from penstock.explore.hold import hold_rate
from penstock.explore.size_evaluate import HOLD, SizeEvaluator, SizeJob
from penstock.explore.slo import parse_slo
from penstock.explore.study_spec import LoadPlan
from penstock.workload.generate import Recipe, generate
from penstock.workload.lengths import parse_lengths
from penstock.workload.offered_load import Arrivals

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
        *("--slo", "ttft_p90<500ms,tpot_p90<30ms", "--hardware", "H100:1,L4:1"),
        *("--workload", "requests.jsonl", "--max-requests", "300", "--price", "H100=2"),
    ]
    code, text, error = invoke(*question)
    assert (code, error) == (0, f"wrote {len(list(Path('size-results').iterdir()))} files to size-results\n")
    fits, _, larger = text.partition("what would do, with more GPUs:")
    (row,) = [line for line in fits.splitlines() if line.startswith("H100, TP1")]
    for words in ("1 of 1", "2.00", "1,460", "700"):
        assert words in row
    assert "1 L4 cannot: 30 requests/s take" in fits
    assert " of 1 " in larger.partition("L4, ")[2]
    commands = [line.strip() for line in text.splitlines() if line.strip().startswith("penstock run")]
    code, ran, error = invoke(*shlex.split(commands[0])[1:])
    assert (code, error) == (0, "")
    assert "300 finished" in ran


def test_what_may_miss_is_an_answer_that_says_so() -> None:
    recipe = Recipe(
        num_requests=300,
        input_tokens=parse_lengths("lognormal:400,0.7", ""),
        output_tokens=parse_lengths("uniform:4,24", ""),
    )
    site = Site(model="meta-llama/Llama-3.1-8B", gpus_per_node=8, networks={}, npu_mem={}, engine={})
    point = DesignPoint(hardware="H100", tp=1, pp=1, replicas=1, max_num_seqs=16)

    def asked(slo: str, rate: float) -> SizeEvaluator:
        load = LoadPlan(
            workload=generate(recipe),
            recipe=recipe,
            pilot=None,
            arrivals=Arrivals(),
            slo=parse_slo(slo),
            rate=rate,
            seeds=1,
            tolerance=0.1,
            requests=300,
            max_requests=300,
        )
        return SizeEvaluator(make_evaluator(site, load, {}, None))

    rate = 30.0
    evaluator = asked("ttft_p99<10s", rate).evaluator
    options = CapacityOptions(seeds=1, requests=300, max_requests=300)
    held = hold_rate(evaluator.load_test(point), rate, options, explain=False).held
    assert held is not None
    found = held.bounds_ns["ttft_p99"]
    between, above = (
        f"ttft_p99<{round(limit)}ns" for limit in ((found.estimate + found.high) / 2, 2 * found.high)
    )
    may_miss, holds = (asked(slo, rate)(SizeJob(HOLD, point, rate, 300)) for slo in (between, above))
    assert holds.status == may_miss.status == "ok"
    assert holds.why_wide is None
    assert "not sure after a run of 300 requests: ttft_p99 is" in (may_miss.why_wide or "")
    assert "but its 95% interval reaches" in (may_miss.why_wide or "")
    misses = asked(f"ttft_p99<{round(found.estimate / 2)}ns", rate)(SizeJob(HOLD, point, rate, 300))
    assert misses.status == "misses"


def test_the_answer_as_json_says_what_was_set_aside_and_why_others_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requests.jsonl").write_text(REQUESTS)
    question = [
        *("size", "--model", "meta-llama/Llama-3.1-8B", "--rate", "30", "--workers", "1", "--json"),
        *("--workload", "requests.jsonl", "--max-requests", "300"),
    ]
    code, text, _ = invoke(*question, "--slo", "tpot_p90<5ms", "--hardware", "T4:1")
    (hopeless,) = json.loads(text)["hardware"]
    assert code == 0
    assert not hopeless["choices"]
    assert "to read its weights once takes" in hopeless["reasons"][0]
    code, text, _ = invoke(*question, "--slo", "ttft_p90<500ms,tpot_p90<40ms", "--hardware", "L4:4")
    assert code == 0
    (found,) = json.loads(text)["hardware"]
    assert found["fits"]
    assert found["candidates"] > sum(found["ruled_out"].values()) > 0
    assert found["set_aside"] > 0
    choices = found["choices"]
    assert [one["gpus"] for one in choices] == sorted(one["gpus"] for one in choices)
    for one in choices:
        prefill = one["prefill_replicas"] * (one["prefill_tp"] or 0) * (one["prefill_pp"] or 0)
        assert one["gpus"] == one["replicas"] * one["tp"] * one["pp"] * one["dp"] + prefill <= 4
        assert one["headroom"] >= 0
        assert one["limited_by"]


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


def test_a_page_shows_every_choice_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("requests.jsonl").write_text(REQUESTS)
    question = [
        *("size", "--model", "meta-llama/Llama-3.1-8B", "--rate", "30", "--workers", "1", "--json"),
        *("--workload", "requests.jsonl", "--max-requests", "300", "--price", "H100=2"),
        *("--slo", "ttft_p90<500ms,tpot_p90<30ms", "--hardware", "H100:1,L4:1"),
    ]
    code, text, error = invoke(*question, "--report", "size.html")
    assert (code, error.splitlines()[-1]) == (0, "wrote size.html")
    choices = [one for answer in json.loads(text)["hardware"] for one in answer["choices"]]
    page = Path("size.html").read_text(encoding="utf-8")
    assert "The cheapest that holds 30 requests/s within TTFT p90 &lt; 500 ms" in page
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    points = data["points"]
    assert len(points) == len(choices)
    assert page.count("<tr data-point=") == len(choices)
    assert points[data["best"]]["label"].startswith("H100, TP1")
    for name, point in points.items():
        config = json.loads((Path("size-results") / f"{name}.json").read_text())
        assert point["config"] == config
        assert f"size-results/{name}.json" in point["command"]
    code, _, error = invoke(*question, "--report", "requests.jsonl")
    assert code == 2
    assert "--report: requests.jsonl cannot be written" in error
