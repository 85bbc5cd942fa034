"""Files of every known format, good and bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from penstock.errors import UserError
from penstock.workload.formats import load_workload
from penstock.workload.workload import Workload

FLAT = {"input_toks": 5, "output_toks": 3, "arrival_time_ns": 10}


def write(path: Path, *lines: object) -> Path:
    path.write_text(
        "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines), encoding="utf-8"
    )
    return path


def load(tmp_path: Path, *lines: object, num_requests: int = 0) -> Workload:
    return load_workload(write(tmp_path / "t.jsonl", *lines), num_requests)


def mistakes(tmp_path: Path, *lines: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *lines)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def test_flat_requests_come_by_arrival_then_by_place(tmp_path: Path) -> None:
    workload = load(tmp_path, {**FLAT, "arrival_time_ns": 9}, FLAT, "", {**FLAT, "arrival_time_ns": 9}, FLAT)
    assert [(r.index, r.arrival_ns) for r in workload.requests()] == [(0, 9), (2, 9), (1, 10), (3, 10)]
    assert (workload.total_input_tokens, workload.total_output_tokens) == (20, 12)
    assert not workload.has_token_ids
    assert not workload.has_sessions


def test_token_ids_belong_to_their_request(tmp_path: Path) -> None:
    with_ids = {**FLAT, "input_tok_ids": [1, 2, 3, 4, 5], "output_tok_ids": [6, 7, 8]}
    only_input = {**FLAT, "input_tok_ids": [5, 4, 3, 2, 1]}
    a, b, c = load(tmp_path, with_ids, FLAT, only_input).requests()
    assert a.input_ids is not None
    assert a.output_ids is not None
    assert (a.input_ids.tolist(), a.output_ids.tolist()) == ([1, 2, 3, 4, 5], [6, 7, 8])
    assert (b.input_ids, b.output_ids) == (None, None)
    assert c.input_ids is not None
    assert (c.input_ids.tolist(), c.output_ids) == ([5, 4, 3, 2, 1], None)


def test_sessions_and_flat_requests_stand_in_one_file(tmp_path: Path) -> None:
    calls = [
        {"input_toks": 1, "output_toks": 2, "tool_duration_ns": 7},
        {"input_toks": 3, "output_toks": 4},
        {"input_toks": 5, "output_toks": 6, "tool_duration_ns": 1},
    ]
    workload = load(
        tmp_path,
        {"session_id": "s", "arrival_time_ns": 50, "sub_requests": calls},
        {**FLAT, "arrival_time_ns": 20},
        {"arrival_time_ns": 30, "sub_requests": calls[:1]},
    )
    assert [(r.index, r.arrival_ns, r.session) for r in workload.requests()] == [
        (3, 20, None),
        (4, 30, 1),
        (0, 50, 0),
    ]
    released = workload.next_call(0, 100)
    assert released is not None
    assert (released.index, released.arrival_ns, released.input_tokens, released.session) == (1, 107, 3, 0)
    last = workload.next_call(1, 200)
    assert last is not None
    assert (last.index, last.arrival_ns) == (2, 200)
    assert [workload.next_call(index, 300) for index in (2, 3, 4)] == [None, None, None]


def test_num_requests_counts_a_session_as_one_and_reads_no_further(tmp_path: Path) -> None:
    session = {"arrival_time_ns": 0, "sub_requests": [{"input_toks": 1, "output_toks": 1}] * 3}
    workload = load(tmp_path, session, "", FLAT, "not JSON", num_requests=2)
    assert len(workload) == 4
    with pytest.raises(UserError, match="--num-reqs"):
        load(tmp_path, FLAT, num_requests=-1)


def test_mooncake_blocks_with_equal_ids_are_equal_prefixes(tmp_path: Path) -> None:
    first = {"timestamp": 2, "input_length": 1100, "output_length": 4, "hash_ids": [70, 71, 72]}
    second = {"timestamp": 3.5, "input_length": 1030, "output_length": 4, "hash_ids": [70, 73]}
    plain = {"timestamp": 4, "input_length": 3, "output_length": 1}
    a, b, c = load(tmp_path, first, second, plain).requests()
    assert (a.arrival_ns, b.arrival_ns) == (2_000_000, 3_500_000)
    assert a.input_ids is not None
    assert b.input_ids is not None
    assert (len(a.input_ids), len(b.input_ids)) == (1100, 1030)
    assert a.input_ids[:512] == b.input_ids[:512]
    assert not set(a.input_ids[512:]) & set(b.input_ids[512:])
    assert c.input_ids is None


def test_priorities_stand_in_flat_requests_in_calls_and_in_mooncake(tmp_path: Path) -> None:
    calls = [{"input_toks": 1, "output_toks": 2, "priority": -3}, {"input_toks": 3, "output_toks": 4}]
    mooncake = {"timestamp": 2, "input_length": 3, "output_length": 1, "priority": 7}
    workload = load(
        tmp_path,
        FLAT,
        {**FLAT, "priority": 2},
        {"arrival_time_ns": 50, "sub_requests": calls},
        mooncake,
        {**FLAT, "priority": 0},
    )
    assert workload.priority.tolist() == [0, 2, -3, 0, 7, 0]
    assert [workload.request(row).priority for row in range(6)] == [0, 2, -3, 0, 7, 0]
    assert workload.has_priorities
    assert not load(tmp_path, FLAT, {**FLAT, "priority": 0}).has_priorities


def test_azure_times_count_from_the_earliest_to_the_100_ns(tmp_path: Path) -> None:
    rows = (
        "TIMESTAMP,ContextTokens,GeneratedTokens\r",
        "2023-11-16 18:17:04.0319601,3180,8\r",
        "2023-11-16 18:17:03.9799600,4808,10\r",
        "2023-11-16 19:17:03.98+01:00,1,1\r",
        "\r",
    )
    workload = load_workload(write(tmp_path / "azure.csv", *rows))
    assert workload.arrival_ns.tolist() == [52_000_100, 0, 40_000]
    assert workload.input_tokens.tolist() == [3180, 4808, 1]
    assert len(load_workload(tmp_path / "azure.csv", 1)) == 1


def test_azure_mistakes_name_their_lines(tmp_path: Path) -> None:
    rows = ("TIMESTAMP,ContextTokens,GeneratedTokens", "noon,5,5", "2023-11-16 18:17:03,0,1.5", "1,2")
    with pytest.raises(UserError) as caught:
        load_workload(write(tmp_path / "azure.csv", *rows))
    assert [p.where.rpartition(":")[2] for p in caught.value.problems] == ["2", "3", "3", "4"]
    with pytest.raises(UserError, match=r"azure.csv:1: expected the columns TIMESTAMP,ContextTokens,Gen"):
        load_workload(write(tmp_path / "azure.csv", "TIMESTAMP,ContextToken,GeneratedTokens", "x"))


def test_gzip_is_seen_by_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress((json.dumps(FLAT) + "\n").encode()))
    assert len(load_workload(path)) == 1
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match="cannot be read"):
        load_workload(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**FLAT, "input_toks": 0}, "input_toks must be a whole number from 1 to 2147483647, got 0"),
        ({**FLAT, "input_toks": -1}, "input_toks must be a whole number from 1 to 2147483647, got -1"),
        ({**FLAT, "output_toks": 1.5}, "output_toks must be a whole number from 1 to 2147483647, got 1.5"),
        ({**FLAT, "output_toks": True}, "output_toks must be a whole number from 1 to 2147483647, got true"),
        ({**FLAT, "output_toks": None}, "output_toks must be a whole number from 1 to 2147483647, got null"),
        ({**FLAT, "input_toks": "7"}, 'input_toks must be a whole number from 1 to 2147483647, got "7"'),
        (
            {**FLAT, "input_toks": float("nan")},
            "input_toks must be a whole number from 1 to 2147483647, got NaN",
        ),
        (
            {**FLAT, "input_toks": 2**40},
            "input_toks must be a whole number from 1 to 2147483647, got 1099511627776",
        ),
        ({**FLAT, "arrival_time_ns": -1}, "arrival_time_ns must be whole nanoseconds >= 0, got -1"),
        (
            {**FLAT, "arrival_time_ns": float("inf")},
            "arrival_time_ns must be whole nanoseconds >= 0, got Infinity",
        ),
        ({"output_toks": 1, "arrival_time_ns": 1}, "missing key 'input_toks'"),
        (
            {"input_tokens": 1, "output_toks": 1, "arrival_time_ns": 1},
            "unknown key 'input_tokens'; did you mean 'input_toks'?",
        ),
        ({**FLAT, "zzz": 1}, "unknown key 'zzz'"),
        ({**FLAT, "input_tok_ids": [1]}, "input_tok_ids has 1 ids, input_toks is 5"),
        ({**FLAT, "output_tok_ids": []}, "output_tok_ids has 0 ids, output_toks is 3"),
        (
            {**FLAT, "output_tok_ids": [1, 2.5, 3]},
            "output_tok_ids must be a list of token ids, whole numbers from 0 to 2147483647",
        ),
        (
            {**FLAT, "output_tok_ids": [1, True, 3]},
            "output_tok_ids must be a list of token ids, whole numbers from 0 to 2147483647",
        ),
        (
            {**FLAT, "output_tok_ids": [1, -2, 3]},
            "output_tok_ids must be a list of token ids, whole numbers from 0 to 2147483647",
        ),
        ("[1]", "expected one JSON object per line, got a list"),
        ("7", "expected one JSON object per line, got a number"),
        ('{"input_toks": 5,', "broken JSON: Expecting property name enclosed in double quotes at column 18"),
        ("[" * 100_000, "broken JSON: maximum recursion depth exceeded while decoding a JSON array"),
        (
            {"arrival_time_ns": 1, "sub_requests": []},
            "sub_requests must be a list of at least one call, got an empty list",
        ),
        ({"arrival_time_ns": 1, "sub_requests": [4]}, "sub_requests[0] must be an object, got a number"),
        (
            {"arrival_time_ns": 1, "sub_requests": [{"input_toks": 1, "output_toks": 1, "tool_ns": 1}]},
            "unknown key 'sub_requests[0].tool_ns'",
        ),
        (
            {
                "arrival_time_ns": 1,
                "sub_requests": [{"input_toks": 1, "output_toks": 1, "tool_duration_ns": -1}],
            },
            "sub_requests[0].tool_duration_ns must be whole nanoseconds >= 0, got -1",
        ),
        (
            {"timestamp": -1, "input_length": 1, "output_length": 1},
            "timestamp must be milliseconds >= 0, got -1",
        ),
        (
            {"timestamp": 1, "input_length": 513, "output_length": 1, "hash_ids": [1, 2, 3]},
            "hash_ids has 3 entries, 513 tokens are 2 blocks of 512",
        ),
        (
            {"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1.5]},
            "hash_ids must be a list of block ids",
        ),
        (
            {**FLAT, "priority": 1.5},
            "priority must be a whole number from -2147483647 to 2147483647, got 1.5",
        ),
        (
            {**FLAT, "priority": None},
            "priority must be a whole number from -2147483647 to 2147483647, got null",
        ),
        ({**FLAT, "priorty": 1}, "unknown key 'priorty'; did you mean 'priority'?"),
        (
            {"arrival_time_ns": 1, "sub_requests": [{"input_toks": 1, "output_toks": 1, "priority": 2**31}]},
            "sub_requests[0].priority must be a whole number from -2147483647 to 2147483647, got 2147483648",
        ),
        (
            {"timestamp": 1, "input_length": 5, "output_length": 1, "priority": "high"},
            'priority must be a whole number from -2147483647 to 2147483647, got "high"',
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, line: object, message: str) -> None:
    found = mistakes(tmp_path, FLAT, line, FLAT)
    assert len(found) == 1
    assert found[0].startswith(f"t.jsonl:2: {message}")


def test_all_mistakes_are_reported_and_those_behind_the_first_20_counted(tmp_path: Path) -> None:
    found = mistakes(tmp_path, *["{"] * 37, FLAT)
    assert len(found) == 21
    assert found[19].startswith("t.jsonl:20: broken JSON")
    assert found[20] == "t.jsonl: ... and 17 more"


def test_a_session_id_stands_once(tmp_path: Path) -> None:
    session = {"session_id": "a", "arrival_time_ns": 1, "sub_requests": [{"input_toks": 1, "output_toks": 1}]}
    assert mistakes(tmp_path, session, session) == ["t.jsonl:2: session_id 'a' is taken by line 1"]


def test_bytes_that_are_not_text_name_their_line(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(FLAT).encode() + b'\n\xff\xfe"\n')
    with pytest.raises(UserError, match=r"t\.jsonl:2: is not UTF-8 text"):
        load_workload(path)


def test_a_byte_order_mark_and_whole_floats_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps({**FLAT, "input_toks": 5.0, "arrival_time_ns": 1e3}).encode()
    )
    (request,) = load_workload(path).requests()
    assert (request.input_tokens, request.arrival_ns) == (5, 1000)
    assert isinstance(request.arrival_ns, int)


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_dataset_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"empty\.jsonl: has no requests"):
        load_workload(path)


def test_an_unreadable_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: cannot be read: No such file or directory"):
        load_workload(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_workload(tmp_path)
    with pytest.raises(UserError, match="it holds a null byte"):
        load_workload(tmp_path / "a\0b")
    with pytest.raises(UserError, match="must not be empty"):
        load_workload("")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ('{"input_toks": 1, "input_toks": 2, "output_toks": 1, "arrival_time_ns": 0}', ["input_toks"]),
        (
            '{"arrival_time_ns": 0, "sub_requests": [{"input_toks": 1, "output_toks": 1, "output_toks": 1}]}',
            ["output_toks"],
        ),
        (
            '{"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0, "arrival_time_ns": 0, "output_toks": 1}',
            ["arrival_time_ns", "output_toks"],
        ),
    ],
)
def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path, text: str, keys: list[str]) -> None:
    assert mistakes(tmp_path, text) == [f"t.jsonl:1: key '{key}' stands twice in one object" for key in keys]


def test_a_colon_in_a_name_is_no_mistake(tmp_path: Path) -> None:
    call = {"input_toks": 1, "output_toks": 1}
    line = {"session_id": "a:b", "arrival_time_ns": 0, "sub_requests": [call]}
    assert len(load(tmp_path, line)) == 1


def test_a_session_ends_within_64_bits(tmp_path: Path) -> None:
    call = {"input_toks": 1, "output_toks": 1, "tool_duration_ns": 2**61}
    line = {"arrival_time_ns": 2**61, "sub_requests": [call, call]}
    (message,) = mistakes(tmp_path, line)
    assert "arrival_time_ns and the tool_duration_ns sum to more than" in message


def test_measured_workload(shared_dir: Path) -> None:
    path = shared_dir / "data/llmservingsim/workloads/sharegpt-llama-3.1-8b-300-sps10.jsonl"
    workload = load_workload(path)
    requests = list(workload.requests())
    assert len(requests) == len(workload) == 300
    assert all(r.input_ids is not None and len(r.input_ids) == r.input_tokens for r in requests)
    assert all(r.output_ids is not None and len(r.output_ids) == r.output_tokens for r in requests)
    assert len(load_workload(path, 7)) == 7


@pytest.mark.parametrize(
    ("name", "requests", "input_tokens"),
    [
        ("azure2023/AzureLLMInferenceTrace_code.csv", 8819, 18_059_974),
        ("azure2023/AzureLLMInferenceTrace_conv.csv", 19_366, 22_361_870),
        ("mooncake/synthetic_trace.jsonl", 3993, 61_194_628),
    ],
)
def test_public_traces(shared_dir: Path, name: str, requests: int, input_tokens: int) -> None:
    workload = load_workload(shared_dir / "data/traces" / name)
    assert (len(workload), workload.total_input_tokens) == (requests, input_tokens)
    assert workload.first_arrival_ns == 0
