from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.calibration.formats import read_benchmark
from penstock.errors import UserError


def vllm(**changes: Any) -> dict[str, Any]:
    """Three requests as vLLM's client writes them."""
    result = {
        "date": "20261125-003648",
        "duration": 3.0,
        "completed": 3,
        "failed": 0,
        "total_input_tokens": 60,
        "total_output_tokens": 6,
        "max_concurrency": None,
        "input_lens": [10, 20, 30],
        "output_lens": [3, 2, 1],
        "ttfts": [0.1, 0.2, 0.3],
        "itls": [[0.01, 0.02], [0.03], []],
        "latencies": [0.13, 0.23, 0.3],
        "start_times": [7000.0, 7000.5, 7001.0],
        "errors": ["", "", ""],
    }
    return result | changes


def written(directory: Path, data: Any, name: str = "bench.json") -> str:
    path = directory / name
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return str(path)


def refusal(directory: Path, data: Any, name: str = "bench.json") -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(UserError) as caught:
        read_benchmark(written(directory, data, name))
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_vllm_bench(tmp_path: Path):
    found = read_benchmark(written(tmp_path, vllm()))
    assert found.start_s.tolist() == [0.0, 0.5, 1.0]
    metrics = found.metrics()
    assert metrics["tpot"] == pytest.approx([0.015, 0.03])
    assert metrics["itl"] == pytest.approx([0.01, 0.02, 0.03])
    assert found.throughput() == pytest.approx(6 / 1.3)
    assert found.token_times_s(0) == pytest.approx([0.1, 0.11, 0.13])


def test_a_gzipped_file_and_one_without_latencies(tmp_path: Path):
    data = vllm()
    del data["latencies"]
    path = tmp_path / "bench.json.gz"
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    assert read_benchmark(str(path)).latency_s == pytest.approx([0.13, 0.23, 0.3])


def test_order_at_the_engine_is_that_of_first_tokens(tmp_path: Path):
    swapped = vllm(start_times=[7000.0, 7000.01, 7001.0], ttfts=[0.2, 0.1, 0.3], latencies=[0.3, 0.3, 0.3])
    assert read_benchmark(written(tmp_path, swapped)).engine_order().tolist() == [1, 0, 2]


def test_messages_of_several_tokens_cost_the_itl_alone(tmp_path: Path):
    found = read_benchmark(written(tmp_path, vllm(itls=[[0.03], [0.03], []])))
    assert "itl" not in found.metrics()
    assert len(found.metrics()["tpot"]) == 2
    assert "1 answers have messages of several tokens" in found.notes[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ttfts": None, "itls": None}, "was saved without --save-detailed: it lacks ttfts, itls"),
        ({"start_times": None}, "lacks start_times, which older versions of vLLM do not write"),
        (
            {"errors": ["", "Traceback\nServer disconnected", ""]},
            "1 of 3 requests failed, the first is request 1: Server",
        ),
        ({"failed": 2}, "2 of 3 requests failed; what they cost the server is not in the file"),
        ({"input_lens": [1, 2]}, "its lists differ in length (input_lens 2, output_lens 3"),
        ({"output_lens": [3, 0, 1]}, "request 1 has an answer of no tokens"),
        ({"ttfts": [0.1, "x", 0.3]}, "hold something that is no number"),
        ({"latencies": [0.05, 0.23, 0.3]}, "request 0 ends before its first token"),
        ({"latencies": [0.15, 1e200, 0.3]}, "request 1 has a time that cannot be"),
    ],
)
def test_what_is_wrong_with_a_result_is_said_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
):
    data = {
        name: value
        for name, value in vllm(**changes).items()
        if value is not None or name == "max_concurrency"
    }
    assert sentence in refusal(tmp_path, data)


def test_other_files_are_refused_with_what_can_be_read(tmp_path: Path):
    assert "broken JSON" in refusal(tmp_path, '{"a": ')
    assert "is no benchmark that can be read: vllm bench serve" in refusal(tmp_path, {"a": 1})
    assert "is no benchmark" in refusal(tmp_path, "hello")
    with pytest.raises(UserError, match="cannot be read"):
        read_benchmark(str(tmp_path / "absent"))


def guidellm_request(start: float, **changes: Any) -> dict[str, Any]:
    row = {
        "request_start_time": start,
        "prompt_tokens": 10,
        "output_tokens": 3,
        "time_to_first_token_ms": 100.0,
        "request_latency": 0.14,
    }
    return row | changes


def test_guidellm(tmp_path: Path):
    one = {
        "requests": {
            "successful": [guidellm_request(5.0), guidellm_request(6.0)],
            "errored": [],
            "incomplete": [],
        }
    }
    path = written(tmp_path, {"benchmarks": [one, one]})
    with pytest.raises(UserError, match=r"holds 2 benchmarks: name one, as .*#1 to .*#2"):
        read_benchmark(path)
    found = read_benchmark(f"{path}#2")
    assert found.kind == "GuideLLM"
    assert found.metrics()["tpot"] == pytest.approx([0.02, 0.02])
    assert "itl" not in found.metrics()
    one["requests"]["errored"] = [{}]
    assert "1 requests are errored" in refusal(tmp_path, {"benchmarks": [one]})


def aiperf_line(start_ns: int, **changes: Any) -> str:
    metrics = {
        "input_sequence_length": {"value": 10, "unit": "tokens"},
        "output_sequence_length": {"value": 3, "unit": "tokens"},
        "time_to_first_token": {"value": 100.0, "unit": "ms"},
        "request_latency": {"value": 140.0, "unit": "ms"},
        "inter_chunk_latency": {"value": [15.0, 25.0], "unit": "ms"},
    }
    line = {
        "metadata": {"request_start_ns": start_ns, "benchmark_phase": "profiling", "was_cancelled": False},
        "metrics": metrics,
        "error": None,
    }
    return json.dumps(line | changes)


def test_aiperf(tmp_path: Path):
    warmup = {"request_start_ns": 1, "benchmark_phase": "warmup"}
    text = "\n".join([aiperf_line(0, metadata=warmup), aiperf_line(10**9), aiperf_line(2 * 10**9)])
    found = read_benchmark(written(tmp_path, text, "profile_export.jsonl"))
    assert len(found) == 2
    assert found.metrics()["itl"] == pytest.approx([0.015, 0.025] * 2)
    failed = "\n".join([aiperf_line(0), aiperf_line(1, error={"message": "500"})])
    assert "1 requests failed or cancelled" in refusal(tmp_path, failed)
    assert "give the profile_export.jsonl beside it" in refusal(
        tmp_path, {"input_config": {}, "request_latency": {}}
    )
    assert "GenAI-Perf's profile export has no token counts of prompts" in refusal(
        tmp_path, {"experiments": []}
    )


def test_serving_csv_and_vllm_request_times(tmp_path: Path):
    csv = (
        "instance id,request id,model,input,output,arrival,end_time,latency,queuing_delay,TTFT,TPOT,ITL\n"
        '0,0,m,10,3,1000000000,1140000000,140000000,0,100000000,20000000,"[15000000, 25000000]"\n'
    )
    found = read_benchmark(written(tmp_path, csv, "run.csv"))
    assert found.engine_clock
    assert found.metrics()["itl"] == pytest.approx([0.015, 0.025])
    line = {
        "input_toks": 10,
        "output_toks": 3,
        "queued_ts": 5.0,
        "first_token_ts": 5.1,
        "last_token_ts": 5.14,
    }
    found = read_benchmark(written(tmp_path, json.dumps(line) + "\n" + json.dumps(line), "requests.jsonl"))
    assert found.ttft_s == pytest.approx([0.1, 0.1])
    assert np.isclose(found.latency_s, 0.14).all()
