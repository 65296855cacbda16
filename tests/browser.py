"""Drive a real headless Chromium over its own debugging pipe: pages, scripts, screenshots."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """A Chromium with one page; `events` keeps what the page did."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self._last, self._read = 0, b""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", CHROMIUM,
             "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--disable-dev-shm-usage", "--no-first-run", "--force-color-profile=srgb",
             f"--user-data-dir={self._folder.name}", "--remote-debugging-pipe"],
            pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._page = None
        self._page = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(Exception):
            self._send("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.process.kill()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)
        self._folder.cleanup()

    def _message(self) -> dict:
        while b"\0" not in self._read:
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError("chromium has ended")
            self._read += data
        message, _, self._read = self._read.partition(b"\0")
        return json.loads(message)

    def _send(self, method: str, session: str | None = None, **params) -> dict:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def send(self, method: str, **params) -> dict:
        """Give the page a command of the DevTools protocol; return its answer."""
        return self._send(method, self._page, **params)

    def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a page and wait until it is loaded."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def run(self, script: str):
        """Return what an expression, awaited, is in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code,
                      text="\r" if key == "Enter" and kind == "keyDown" else "")  # fmt: skip

    def requests(self) -> list[str]:
        """Return what the page has asked for over the network, itself left out."""
        sent = [
            it["params"] for it in self.events if it.get("method") == "Network.requestWillBeSent"
        ]
        return [it["request"]["url"] for it in sent if it["request"]["url"] != it["documentURL"]]

    def complaints(self) -> list[str]:
        """Return errors of scripts, and what the page's policy refused."""
        logged = [it["params"] for it in self.events if it.get("method") == "Log.entryAdded"]
        errors = [it["entry"]["text"] for it in logged if it["entry"]["level"] == "error"]
        thrown = [it for it in self.events if it.get("method") == "Runtime.exceptionThrown"]
        return errors + [json.dumps(it["params"]) for it in thrown]

    def screenshot(self, path: str) -> None:
        """Save what is to be seen as a PNG."""
        data = self.send("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
