"""A headless Chromium over its DevTools pipe: no driver, no port, no further package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

AXE = Path(
    os.environ.get(
        "PENSTOCK_AXE", Path(__file__).resolve().parent / "node_modules" / "axe-core" / "axe.min.js"
    )
)
WIDTHS, THEMES = (1400, 700), ("light", "dark")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_SWITCHES = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-pipe",
)


class Browser:
    """One page. ``problems`` collects console errors and exceptions, ``requests`` every URL asked for."""

    def __init__(self, to_browser: int, from_browser: int, timeout_s: float = 120) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._to, self._from = to_browser, from_browser
        self._timeout_s = timeout_s
        self._buffer = b""
        self._id = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer, noting what happens meanwhile."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, page: Path, *, width: int = 1280, height: int = 1000, theme: str = "light") -> float:
        """Open a file in the system's ``theme`` and wait until its scripts say that it is ready; returns seconds."""
        self.system_theme(theme)
        self.resize(width, height)
        started = time.monotonic()
        self.call("Page.navigate", url=page.as_uri())
        while self.evaluate("document.documentElement?.dataset.ready || ''") != "yes":
            if self.problems or time.monotonic() - started > self._timeout_s:
                raise RuntimeError(f"the page does not get ready: {self.problems}")
            time.sleep(0.05)
        return time.monotonic() - started

    def system_theme(self, theme: str) -> None:
        """What the system says of colours: light | dark. A page of ours hears of it some frames later; where its reader
        has chosen the other look, that stays."""
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.evaluate(
            "new Promise((done) => { let looks = 0; const look = () => { "
            "const now = document.documentElement?.dataset.theme; "
            f"if (now === undefined || now === '{theme}' || ++looks > 100) done(0); else setTimeout(look, 20); "
            "}; look(); })"
        )

    def resize(self, width: int, height: int) -> None:
        """The viewport, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def drawn(self) -> None:
        """Wait until every chart is drawn."""
        started = time.monotonic()
        while self.evaluate("document.documentElement.dataset.drawn") != "yes":
            if self.problems or time.monotonic() - started > self._timeout_s:
                raise RuntimeError(f"the charts are not drawn: {self.problems}")
            time.sleep(0.05)

    def faults(self) -> dict[str, list[Any]]:
        """What axe-core finds serious or critical, by theme and width, of those that have any."""
        self.evaluate(AXE.read_text(encoding="utf-8") + "; 0")
        found: dict[str, list[Any]] = {}
        for theme in THEMES:
            self.system_theme(theme)
            for width in WIDTHS:
                self.resize(width, 1000)
                found[f"{theme} {width}"] = self.evaluate(
                    "axe.run(document, { resultTypes: ['violations'] }).then((found) => found.violations"
                    ".filter((one) => ['serious', 'critical'].includes(one.impact))"
                    ".map((one) => [one.id, one.nodes.slice(0, 3).map((node) => node.html.slice(0, 160))]))"
                )
        return {look: faults for look, faults in found.items() if faults}

    def pdf(self) -> bytes:
        """The page as it is printed."""
        answer = self.call("Page.printToPDF", printBackground=True)
        return base64.b64decode(answer["data"])

    def key(self, key: str) -> None:
        """Press and let go of a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event at a place of the viewport."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        """Save what is seen, or the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], self._timeout_s)[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._from, 1 << 20)
            if not data:
                raise RuntimeError("the browser has ended")
            self._buffer += data
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(raw)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@contextmanager
def browser(profile: Path) -> Generator[Browser]:
    """Start Chromium with a fresh ``profile`` directory, and end it."""
    assert CHROMIUM is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # The browser reads descriptor 3 and writes 4; ours are moved out of the way first.
    given = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_read, from_write)]
    os.close(to_read)
    os.close(from_write)
    moved = (
        f"import os, sys; os.dup2({given[0]}, 3); os.dup2({given[1]}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", moved, CHROMIUM, *_SWITCHES, f"--user-data-dir={profile}"],
        pass_fds=given,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in given:
        os.close(end)
    try:
        yield Browser(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
