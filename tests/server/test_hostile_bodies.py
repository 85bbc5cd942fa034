"""Every field of every request body with values that are none, and what no client should send."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fuzz.made import TOKENIZER
from penstock.server.schema import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from served import Served, cluster_config, serving

SHAPES = {
    "/v1/completions": (CompletionBody, {"prompt": [1, 2, 3], "max_tokens": 2, "ignore_eos": True}),
    "/v1/chat/completions": (ChatBody, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}),
    "/tokenize": (TokenizeBody, {"prompt": "x"}),
    "/detokenize": (DetokenizeBody, {"tokens": [1]}),
}
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 10**30, -(2**63), 2**31, 1e308, "", "x", "1", "\0", "é" * 99, [], [[]], [None], [""], [-1],
    [2**31 - 1], [10**30], [[1], []], [["x"]], {}, [{}], {"a": []}, [{"role": "user"}], [{"role": 1, "content": [7]}],
    [{"role": "user", "content": [{"type": "text", "text": {}}]}], {"include_usage": "x"},
)  # fmt: skip
RAW = (
    b"", b" ", b"null", b"[]", b"7", b'"x"', b"{", b'{"prompt": "\\ud800"}', b'{"prompt": NaN}', b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}", b'{"prompt": "x", "prompt": 7}', b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt": 1e999}',
    b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
)  # fmt: skip
CLIENT = httpx.Client(timeout=60)
TEMPLATE = "{% for one in messages %}{{ one.role + one.content + 1 }}{% endfor %}"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With a tokenizer file whose chat template goes wrong."""
    path = tmp_path_factory.mktemp("hostile")
    (path / "tok").mkdir()
    (path / "tok" / "tokenizer.json").write_text(TOKENIZER)
    (path / "tok" / "chat_template.jinja").write_text(TEMPLATE)
    with serving(
        path, cluster_config(max_model_len=300), "--tokenizer", str(path / "tok"), "--time-scale", "50"
    ) as served:
        yield served


def answered(url: str, path: str, raw: bytes) -> int:
    """The status, which is no fault of the server's; what is refused says why in vLLM's form."""
    headers = {"content-type": "application/json"}
    answer = CLIENT.post(f"{url}{path}", content=raw, headers=headers)
    assert answer.status_code in (200, 400, 404), (path, raw[:300], answer.status_code, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"], raw[:300]
        assert len(answer.content) < 20_000, raw[:300]
    return answer.status_code


@pytest.mark.parametrize("path", SHAPES)
def test_every_field_with_every_value(path: str, other: Served) -> None:
    shape, body = SHAPES[path]
    for field in shape.model_fields:
        for value in VALUES:
            answered(other.url, path, json.dumps({**body, field: value}).encode())


@pytest.mark.parametrize("path", SHAPES)
def test_bodies_that_are_none(path: str, other: Served) -> None:
    for raw in RAW:
        answered(other.url, path, raw)
    raw = json.dumps(SHAPES[path][1]).encode()
    random_ = random.Random(16)
    for _ in range(100):
        place = random_.randrange(len(raw))
        answered(other.url, path, raw[:place] + bytes([random_.randrange(256)]) + raw[place + 1 :])


def test_a_template_that_goes_wrong_is_the_requests_mistake(other: Served) -> None:
    path = "/v1/chat/completions"
    assert answered(other.url, path, json.dumps(SHAPES[path][1]).encode()) == 400


@pytest.mark.parametrize(
    "more",
    [
        {"n": 16_384, "max_tokens": 100_000},
        {"prompt": ["x"] * 20_000},
        {"prompt": [[1]] * 9000, "n": 2},
        {"n": 10**9},
    ],
)
def test_answers_without_number(more: dict[str, Any], server: Served) -> None:
    raw = json.dumps({"prompt": [1], "ignore_eos": True, **more}).encode()
    assert answered(server.url, "/v1/completions", raw) == 400
