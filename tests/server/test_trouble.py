"""What goes wrong: overload, clients that are slow or many, ports that are taken, configs that are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from served import cluster_config, serving, starting

CODE = "from penstock.cli.main import main; main()"
BODY = {"prompt": [1, 2, 3], "max_tokens": 3, "ignore_eos": True}


def resident_bytes(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith("process_resident_memory_bytes ")]
    return float(line.split()[1])


def test_a_full_queue_answers_503_and_serves_the_rest(tmp_path: Path) -> None:
    async def ask(url: str) -> list[int]:
        async with aiohttp.ClientSession(url) as session:

            async def one() -> int:
                async with session.post("/v1/completions", json={**BODY, "max_tokens": 200}) as answer:
                    text = await answer.json()
                    if answer.status == 503:
                        assert text["error"]["code"] == 503
                    return answer.status

            return await asyncio.gather(*(one() for _ in range(40)))

    with serving(tmp_path, cluster_config(max_num_seqs=2), "--max-queue", "5", "--time-scale", "4") as server:
        statuses = asyncio.run(ask(server.url))
        assert statuses.count(200) >= 7
        assert statuses.count(503) >= 20
        assert len(statuses) == statuses.count(200) + statuses.count(503)


def test_no_request_of_a_crowd_is_lost(server: Any) -> None:
    async def ask() -> list[int]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(server.url, connector=connector) as session:

            async def one() -> int:
                async with session.post("/v1/completions", json=BODY) as answer:
                    return (await answer.json())["usage"]["completion_tokens"]

            return await asyncio.gather(*(one() for _ in range(800)))

    assert asyncio.run(ask()) == [3] * 800


def test_a_client_that_does_not_read_keeps_nobody_waiting(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({**BODY, "max_tokens": 100_000, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as sleeper:
        sleeper.sendall(head.encode() + body)
        for _ in range(3):
            assert httpx.post(f"{server.url}/v1/completions", json=BODY, timeout=30).status_code == 200


def test_a_client_that_reads_late_gets_all_of_it(tmp_path: Path) -> None:
    tokens = 20_000
    body = json.dumps({**BODY, "max_tokens": tokens, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    with serving(tmp_path, cluster_config(), "--time-scale", "100") as server:
        before = resident_bytes(server.url)
        host, port = server.url.removeprefix("http://").split(":")
        with socket.socket() as sleeper:
            sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sleeper.connect((host, int(port)))
            sleeper.sendall(head.encode() + body)
            while httpx.get(f"{server.url}/load").json()[
                "server_load"
            ]:  # until the engine has made all tokens
                assert httpx.post(f"{server.url}/v1/completions", json=BODY, timeout=30).status_code == 200
                time.sleep(0.05)
            assert resident_bytes(server.url) < before + 40e6
            sleeper.settimeout(60)
            parts: list[bytes] = []
            while part := sleeper.recv(1 << 16):
                parts.append(part)
        text = b"".join(parts)
        ids = "".join(
            json.loads(line[6:])["choices"][0]["text"]
            for line in text.split(b"\n")
            if line.startswith(b"data: {")
        )
        assert text.rstrip().endswith(b"data: [DONE]\n\n\r\n0")
        whole = httpx.post(f"{server.url}/v1/completions", json={**BODY, "max_tokens": tokens}, timeout=60)
        assert ids == whole.json()["choices"][0]["text"]


def test_a_broken_body_and_half_a_request_do_no_harm(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for raw in (
        b"\x16\x03\x01\x02\x00",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: 99\r\n\r\n{",
        b"",
    ):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(raw)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)
    assert httpx.get(f"{server.url}/health").status_code == 200


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CODE, "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_mistakes_are_told_all_at_once(tmp_path: Path) -> None:
    config = cluster_config(block_sise=16)
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    done = run(
        str(tmp_path / "cluster.json"),
        *(
            "--port",
            "70000",
            "--time-scale",
            "-1",
            "--text",
            "eco",
            "--answer-lengths",
            "fixd:3",
            "--max-queue",
            "-1",
            "--record",
            "",
        ),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in ("--port", "--time-scale", "'echo'", "'fixed'", "--max-queue", "--record", "block_size"):
        assert part in done.stderr, done.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text(json.dumps(cluster_config()))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(str(tmp_path / "cluster.json"), "--port", str(port))
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stderr
    assert "in use" in done.stderr


def test_a_server_that_is_told_to_stop_ends_its_streams(tmp_path: Path) -> None:
    async def ask(server: Any) -> str:
        async with aiohttp.ClientSession(server.url) as session:
            body = {**BODY, "max_tokens": 100_000, "stream": True}
            async with session.post("/v1/completions", json=body) as answer:
                await answer.content.readline()
                server.process.send_signal(signal.SIGINT)
                return (await answer.read()).decode()

    with serving(tmp_path, cluster_config(), "--record", str(tmp_path / "session")) as server:
        text = asyncio.run(ask(server))
    assert "shutting down" in text
    assert text.endswith("data: [DONE]\n\n")
    (line,) = (tmp_path / "session" / "workload.jsonl").read_text().splitlines()
    assert json.loads(line)["output_toks"] < 100_000


def test_a_server_that_was_killed_starts_again_on_its_port(tmp_path: Path) -> None:
    with serving(tmp_path, cluster_config(), "--record", str(tmp_path / "session")) as server:
        assert httpx.post(f"{server.url}/v1/completions", json=BODY).status_code == 200
        server.process.kill()
        server.process.wait(timeout=20)
    assert not (tmp_path / "session").exists()
    port = server.url.rpartition(":")[2]
    with starting([str(tmp_path / "cluster.json"), "--port", port]) as again:
        assert again.url == server.url
        assert httpx.post(f"{again.url}/v1/completions", json=BODY).status_code == 200


def test_a_body_of_100_mb_is_refused_and_not_kept(server: Any) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(100):
            yield b"a " * 500_000
        yield b'"}'

    before = resident_bytes(server.url)
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/completions", content=body(), headers=headers, timeout=60)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == 413
    assert resident_bytes(server.url) < before + 90e6
