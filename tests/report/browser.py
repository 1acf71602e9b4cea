"""A headless Chromium, driven by WebDriver over plain HTTP: no driver library needed."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
FLAGS += ["--hide-scrollbars", "--force-device-scale-factor=1", "--force-color-profile=srgb"]
PATIENCE = 60.0  # seconds for the driver to start and for a page to draw


def programs() -> tuple[str, str] | None:
    """The paths of Chromium and its driver, or None where either is missing."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One session."""

    def __init__(self, address: str, binary: str) -> None:
        self._address = address
        options = {"binary": binary, "args": FLAGS}
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": logs}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def open(self, page: Path, *, width: int = 1280, dark: bool = False) -> None:
        """Show a page and wait until its charts are drawn."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        self._ask("POST", f"{self._session}/url", {"url": page.resolve().as_uri()})
        end = time.monotonic() + PATIENCE
        while self.run("return document.documentElement.dataset.drawn ?? null") is None:
            if time.monotonic() > end:
                message = f"{page} did not draw; console: {self.console()}"
                raise AssertionError(message)
            time.sleep(0.05)

    def run(self, script: str) -> object:
        """What a script returns."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def console(self) -> list[str]:
        """Messages of the console since the last call, warnings and errors."""
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "browser"})
        return [e["message"] for e in entries if e["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """Addresses the page asked for since the last call."""
        entries = self._ask("POST", f"{self._session}/se/log", {"type": "performance"})
        events = [json.loads(entry["message"])["message"] for entry in entries]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]

    def screenshot(self, to: Path) -> None:
        """The whole page, as PNG."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        to.write_bytes(base64.b64decode(shot["data"]))

    def devtools(self, command: str, **params: object) -> dict:
        """A command of the DevTools protocol."""
        asked = {"cmd": command, "params": params}
        return self._ask("POST", f"{self._session}/goog/cdp/execute", asked)

    def close(self) -> None:
        """End the session."""
        self._ask("DELETE", self._session)

    def _ask(self, method: str, path: str, body: object = None) -> dict | list | object:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error


@contextmanager
def started() -> Iterator[Browser]:
    """A browser that ends with the block."""
    found = programs()
    assert found is not None
    binary, driver = found
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/status")
        browser = Browser(f"http://127.0.0.1:{port}", binary)
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait()


def _wait(address: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    message = "the driver did not start"
    raise AssertionError(message)
