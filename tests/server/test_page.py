"""The live page and what it is drawn from."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest
from chromium import AXE, CHROMIUM, THEMES, WIDTHS, browser


@contextmanager
def traffic(url: str) -> Generator[None]:
    """Some requests, one after another, meanwhile."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            body = {"prompt": [3] * 500, "max_tokens": 20, "ignore_eos": True}
            httpx.post(f"{url}/v1/completions", json=body, timeout=60)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def until(condition: Any, seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_the_data_has_what_the_stages_did(server: Any) -> None:
    with traffic(server.url):
        data = until(
            lambda: (got := httpx.get(f"{server.url}/penstock/data").json())["ttft_ms"] and got, seconds=30
        )
    (instance,) = data["instances"]
    assert len(instance["spans"]) == len(instance["layers"]) == 2
    for spans in instance["spans"]:
        assert spans
        assert {data["causes"][cause] for _, _, cause in spans} >= {"busy"}
        edges = [(begin, begin + length) for begin, length, _ in spans]
        assert all(end <= begin + 2 for (_, end), (begin, _) in pairwise(edges))
        assert all(-data["window_us"] <= begin <= 0 for begin, _ in edges)
    for row in instance["shares"]:
        assert sum(row) == pytest.approx(1, abs=0.01)
    assert data["ttft_ms"] == sorted(data["ttft_ms"])


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the path: apt-get install chromium")
def test_the_page_updates_in_a_browser(server: Any, tmp_path: Any) -> None:
    with browser(tmp_path) as page:
        page.call("Page.navigate", url=f"{server.url}/penstock")

        def shown() -> str:
            return page.evaluate(
                "document.getElementById('state') && document.getElementById('state').textContent"
            )

        first = until(lambda: (text := shown()) and text.startswith("simulated time") and text)
        assert first
        with traffic(server.url):
            assert until(lambda: shown() != first)
            drawn = """(() => {
                const canvas = document.querySelector("canvas.gantt");
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                let busy = 0;
                for (let i = 0; i < data.length; i += 4) if (data[i + 2] > data[i] + 60 && data[i + 3] > 60) busy++;
                return busy;
            })()"""
            assert until(lambda: page.evaluate(drawn) > 50)
        text = page.evaluate("document.body.innerText")
        assert "Instance 0: meta-llama/Llama-3.1-8B" in text
        assert "TTFT p50 / p90 / p99" in text
        assert [
            one for one in page.problems if "getImageData" not in one
        ] == []  # which this test itself calls
        assert {url.split("/")[2] for url in page.requests} == {server.url.split("/")[2]}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium in the path: apt-get install chromium")
def test_the_page_has_the_look_of_all_pages(server: Any, tmp_path: Any) -> None:
    with browser(tmp_path) as page:
        page.system_theme("light")
        page.call("Page.navigate", url=f"{server.url}/penstock")
        assert until(lambda: page.evaluate("document.querySelectorAll('canvas.gantt').length") == 1)
        for theme in THEMES:
            page.system_theme(theme)
            for width in WIDTHS:
                page.resize(width, 1000)
                assert page.evaluate("document.documentElement.dataset.theme") == theme
                assert page.evaluate("document.documentElement.scrollWidth") <= width
        if AXE.is_file():
            assert page.faults() == {}
        page.evaluate("document.getElementById('theme').click()")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"
        assert page.problems == []
