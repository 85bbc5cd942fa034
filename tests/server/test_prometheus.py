"""Debian's Prometheus against a running server, where it is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus in the path: apt-get install prometheus"
)


def test_promtool_finds_nothing_wrong_with_our_own_metrics(server: Any) -> None:
    """vLLM's own names have colons, and a histogram that ends in _total, which the linter does not like."""
    text = httpx.get(f"{server.url}/metrics").text
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    remarks = (checked.stdout + checked.stderr).splitlines()
    assert not [line for line in remarks if line.startswith("penstock_")]
    assert not [line for line in remarks if "error" in line.lower()]
    assert all(line.startswith("vllm:") for line in remarks if line), remarks


def test_prometheus_scrapes_and_answers_a_query(server: Any, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = server.url.removeprefix("http://")
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: vllm, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    for _ in range(3):
        httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 4, "ignore_eos": True})
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        query = 'vllm:request_success_total{finished_reason="length"}'
        deadline = time.monotonic() + 40
        found: list[Any] = []
        while not found and time.monotonic() < deadline:
            time.sleep(0.3)
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query})
            except httpx.TransportError:
                continue
            found = answer.json().get("data", {}).get("result", [])
        (one,) = found
        assert one["metric"]["model_name"] == "meta-llama/Llama-3.1-8B"
        assert float(one["value"][1]) >= 3
    finally:
        process.terminate()
        process.wait(timeout=20)
