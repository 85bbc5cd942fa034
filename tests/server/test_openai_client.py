"""The real OpenAI client against a running server."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")

MODEL = "meta-llama/Llama-3.1-8B"


@pytest.fixture(scope="module")
def client(server: Any) -> Any:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_completion_has_its_tokens_and_its_usage(client: Any) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=7, extra_body={"ignore_eos": True}
    )
    assert answer.usage.prompt_tokens == 4
    assert answer.usage.completion_tokens == 7
    assert len(answer.choices[0].text.split()) == 7
    assert answer.choices[0].finish_reason == "length"


def test_a_stream_has_a_chunk_per_token_and_ends_with_the_usage(client: Any) -> None:
    chunks = list(
        client.completions.create(
            model=MODEL,
            prompt=[1, 2, 3, 4, 5],
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * 8 + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 5
    assert chunks[-1].usage.completion_tokens == 9
    assert all(chunk.choices[0].text for chunk in chunks[:-1])


def test_the_same_request_has_the_same_answer_and_another_seed_another(client: Any) -> None:
    def text(**more: Any) -> str:
        return client.completions.create(model=MODEL, prompt="Say", max_tokens=30, **more).choices[0].text

    assert text() == text()
    assert text(seed=1) == text(seed=1)
    assert text(seed=1) != text(seed=2)


def test_a_chat_streams_the_role_first(client: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "What is new?"}]},
            ],
            max_completion_tokens=6,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]).split()
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 6


def test_a_chat_may_have_several_answers(client: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=5, n=3, temperature=0.5
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.choices[0].message.role == "assistant"
    stream = client.completions.create(model=MODEL, prompt=["a b", "c d"], n=2, max_tokens=4, stream=True)
    assert {chunk.choices[0].index for chunk in stream} == {0, 1, 2, 3}


def test_an_echo_begins_with_the_prompt(client: Any) -> None:
    answer = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=2, echo=True)
    assert answer.choices[0].text.startswith("Once upon ")
    stream = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=2, echo=True, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_an_answer_that_is_left_open_ends_by_itself(client: Any) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi there"}], extra_body={"min_tokens": 3}
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens >= 3


@pytest.mark.parametrize(
    ("request_", "error", "text", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "does not exist", "model"),
        (
            {"prompt": [7] * 131_072},
            openai.BadRequestError,
            "maximum context length is 131072",
            "input_tokens",
        ),
        ({"prompt": "a " * 5_000_000}, openai.BadRequestError, "10000000 characters", "input_text"),
        ({"prompt": ""}, openai.BadRequestError, "cannot be empty", None),
        ({"prompt": []}, openai.BadRequestError, "must be provided", "prompt"),
        ({"max_tokens": 0}, openai.BadRequestError, "at least 1, got 0", "max_tokens"),
        ({"n": 0}, openai.BadRequestError, "n must be at least 1", "n"),
        ({"temperature": 3}, openai.BadRequestError, "[0, 2]", "temperature"),
        ({"stream_options": {}}, openai.BadRequestError, "Stream options", "stream_options"),
        ({"max_tokens": "many"}, openai.BadRequestError, "int_parsing", "max_tokens"),
        ({"extra_body": {"priority": 1}}, openai.BadRequestError, "not enabled", None),
        (
            {"extra_body": {"min_tokens": 9}},
            openai.BadRequestError,
            "less than or equal to max_tokens=2",
            None,
        ),
    ],
)
def test_mistakes_are_answered_as_vllm_answers_them(
    client: Any, request_: dict[str, Any], error: Any, text: str, param: str | None
) -> None:
    with pytest.raises(error) as caught:
        client.completions.create(**{"model": MODEL, "prompt": "x", "max_tokens": 2, **request_})
    assert text in caught.value.message
    assert caught.value.body["code"] == caught.value.status_code
    if param is not None:
        assert caught.value.body["param"] == param


def test_a_client_that_leaves_aborts_its_request(client: Any, server: Any) -> None:
    def load() -> int:
        return httpx.get(f"{server.url}/load").json()["server_load"]

    stream = client.completions.create(
        model=MODEL, prompt="x", max_tokens=100_000, stream=True, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert load() == 1
    stream.close()
    deadline = time.monotonic() + 10
    while load() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert load() == 0


def test_models_are_listed(client: Any) -> None:
    (card,) = client.models.list().data
    assert card.id == MODEL
    assert card.max_model_len == 131_072
