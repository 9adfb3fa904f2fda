"""Headless browser driven by WebDriver over HTTP, for tests of pages and for `make screenshots`."""

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest

_OPTIONS = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]}

OVERFLOWING = """
return [...document.querySelectorAll('body *')].filter(e => !e.closest('.wide') || e.matches('.wide'))
  .filter(e => e.getClientRects().length && (e.getBoundingClientRect().right > innerWidth + 1
    || e.getBoundingClientRect().left < -1)).map(e => e.outerHTML.slice(0, 120));
"""
"""Elements that overflow the window, except inside scrolling containers."""

LOW_CONTRAST = """
const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
const paint = colors => {
  pen.fillStyle = '#fff'; pen.fillRect(0, 0, 1, 1);
  for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
  const linear = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
};
const seen = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length;
return [...document.querySelectorAll('body, body *')].filter(seen).map(e => {
  const stack = [];
  for (let up = e; up; up = up.parentElement) stack.unshift(getComputedStyle(up).backgroundColor);
  const own = getComputedStyle(e), ink = e.ownerSVGElement ? own.fill : own.color;
  const [dark, light] = [paint(stack), paint([...stack, ink])].sort((a, b) => a - b);
  return [(light + 0.05) / (dark + 0.05), e.outerHTML.slice(0, 120)];
}).filter(([contrast]) => contrast < 4.5);
"""
"""Texts with a contrast below 4.5 (WCAG 2, level AA), with the contrast."""


class Browser:
    """One session of chromedriver."""

    def __init__(self, port: int) -> None:
        self._port = port
        wanted = {
            "unhandledPromptBehavior": "ignore",
            "goog:chromeOptions": _OPTIONS,
            "goog:loggingPrefs": {"performance": "ALL"},
        }
        found = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{found['sessionId']}"

    def open(self, url: str, width: int, height: int = 800) -> None:
        """Load a page in a window of this size in pixels; a width below 600 emulates a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        body = {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        self._call("POST", f"{self._session}/goog/cdp/execute", body)
        self._call("POST", f"{self._session}/url", {"url": url})

    def before_scripts(self, script: str) -> None:
        """Run a script in every page that is opened from now on, before the page's own scripts."""
        body = {"cmd": "Page.addScriptToEvaluateOnNewDocument", "params": {"source": script}}
        self._call("POST", f"{self._session}/goog/cdp/execute", body)

    def emulate(self, media: str, scheme: str) -> None:
        """Emulate a medium (`screen` or `print`) and a color scheme (`light` or `dark`)."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        body = {"cmd": "Emulation.setEmulatedMedia", "params": {"media": media, "features": features}}
        self._call("POST", f"{self._session}/goog/cdp/execute", body)

    def run(self, script: str) -> Any:
        """Run a script and return its result; the content security policy of the page does not apply."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def screenshot(self) -> bytes:
        """Return what the window shows, as PNG."""
        return base64.b64decode(self._call("GET", f"{self._session}/screenshot"))

    def dialog(self) -> str | None:
        """Return the text of an open alert, or None."""
        found = self._call("GET", f"{self._session}/alert/text", expected="no such alert")
        return None if found is None else str(found)

    def dismiss(self) -> None:
        """Close the open alert."""
        self._call("POST", f"{self._session}/alert/dismiss", {})

    def requests(self) -> list[str]:
        """Return the URLs requested since the last call, except data URLs."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]

    def close(self) -> None:
        """Close the browser."""
        self._call("DELETE", self._session)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None, expected: str | None = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, json.dumps(body) if method == "POST" else None)
            found = json.load(connection.getresponse())["value"]
        finally:
            connection.close()
        if not isinstance(found, dict) or "error" not in found:
            return found
        if found["error"] != expected:
            raise RuntimeError(f"{method} {path}: {found['error']}: {found['message']}")
        return None


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser and close it on exit; skip the test if none is installed."""
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("chromedriver is not installed; CI has it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(port)
        opened = Browser(port)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        process.terminate()
        process.wait()


def _wait(port: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
