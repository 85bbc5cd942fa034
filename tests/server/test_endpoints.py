"""What is beside answers: health, versions, tokens, and requests that are none."""

from __future__ import annotations

import json
from typing import Any

import httpx


def test_health_and_the_like(server: Any) -> None:
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health").content == b""
        assert client.get("/ping").status_code == client.post("/ping").status_code == 200
        assert client.get("/version").json()["version"].startswith("penstock")
        assert client.get("/load").json() == {"server_load": 0}


def test_tokens_there_and_back(server: Any) -> None:
    with httpx.Client(base_url=server.url) as client:
        text = "It's 12345 o'clock, \n\n so: wait-a-moment! Größe 漢字"
        answer = client.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["max_model_len"] == 131_072
        assert client.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}
        chat = client.post("/tokenize", json={"messages": [{"role": "user", "content": "Hi"}]}).json()
        assert chat["count"] > 1


def test_what_is_no_request_is_a_400_with_vllms_body(server: Any) -> None:
    with httpx.Client(base_url=server.url) as client:
        header = {"content-type": "application/json"}
        for content in (b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"messages": 3}', b"{}" * 3):
            answer = client.post("/v1/chat/completions", content=content, headers=header)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["type"] == "Bad Request"
            assert error["code"] == 400
            assert "validation error" in error["message"]
        plain = client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
        assert plain.status_code == 400
        assert client.get("/v1/completions").status_code == 405
        assert client.get("/nothing").json()["error"]["code"] == 404


def test_a_hundred_megabytes_are_refused_before_they_are_read(server: Any) -> None:
    body = b'{"prompt": "' + b"a" * 100_000_000 + b'"}'
    try:
        answer = httpx.post(
            f"{server.url}/v1/completions",
            content=body,
            headers={"content-type": "application/json"},
            timeout=60,
        )
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # the server has hung up while the client was still sending
    assert httpx.get(f"{server.url}/health").status_code == 200
    errors = json.loads(
        httpx.post(f"{server.url}/v1/completions", json={"prompt": list("abc"), "max_tokens": 1}).text
    )
    assert len(errors["choices"]) == 3
