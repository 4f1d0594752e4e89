"""A real browser without a screen. Chromium comes from Debian: where apt-get may, it is installed.

Chromium(...) -> open -> evaluate, press, shoot; by the DevTools protocol over a socket that it
inherits, so that no port is opened.
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 120
PATIENCE_S = 60
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--disable-dev-shm-usage"),
)
START = """
import os, sys
for place in (3, 4):  # Chromium reads from the one and writes to the other
    os.dup2(int(sys.argv[1]), place)
os.execv(sys.argv[2], sys.argv[2:])
"""
COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


def installed_browser() -> str:
    """Return the path of a browser; the test fails where there is none."""

    def installed() -> str | None:
        return next(filter(None, map(shutil.which, BROWSERS)), None)

    if not installed() and shutil.which("apt-get") and os.geteuid() == 0:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        for command in (["apt-get", "update"], install):
            subprocess.run(command, check=False, capture_output=True, timeout=600)
    found = installed()
    if found is None:
        pytest.fail(
            f"none of {', '.join(BROWSERS)} is installed; on Debian: apt-get install chromium",
            pytrace=False,
        )
    return found


class Chromium:
    """A browser with one page. Close it.

    Args:
        profile: folder for what it keeps.
        options: further ones of its command line.

    Attributes:
        complaints: what the page has written to the console since it was opened.
    """

    def __init__(self, profile: Path, *options: str) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(TIMEOUT_S)
        options = (*QUIET, *options, f"--user-data-dir={profile}", "--remote-debugging-pipe")
        inherited = theirs.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(inherited), installed_browser(), *options],
            pass_fds=[inherited],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._read, self._calls = b"", 0
        self._events: list[str] = []
        self._session = ""
        self.complaints: list[str] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(timeout=TIMEOUT_S)
        self._socket.close()

    def look(self, width: int, theme: str) -> None:
        """Set the width of the window in pixels, and the theme of the system: light or dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": theme}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Open a page and wait until all of it is there."""
        self._events.clear()
        self.complaints.clear()
        self._call("Page.navigate", url=address)
        while "Page.loadEventFired" not in self._events:
            self._take(self._next())

    def evaluate(self, expression: str) -> Any:
        """Return what an expression is worth in the page; of a promise what it brings."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        came = self.evaluate(
            f"new Promise(done => {{ const end = performance.now() + {1000 * PATIENCE_S}; "
            f"const look = () => ({condition}) ? done(true) "
            ": performance.now() > end ? done(false) : setTimeout(look, 10); look(); })"
        )
        assert came, condition

    def place(self, selector: str) -> tuple[float, float]:
        """Scroll to an element, and return the middle of it in the window."""
        left, top = self.evaluate(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)}); "
            "one.scrollIntoView({block: 'center', behavior: 'instant'}); "
            "const at = one.getBoundingClientRect(); "
            "return [at.left + at.width / 2, at.top + at.height / 2]; })()"
        )
        return left, top

    def click(self, selector: str) -> None:
        """Click on the middle of an element."""
        self.mouse(self.place(selector))

    def mouse(self, *points: tuple[float, float]) -> None:
        """Press the button at the first point, move along the others, and let it go at the last."""
        for kind, (x, y) in (
            ("mousePressed", points[0]),
            *(("mouseMoved", point) for point in points[1:]),
            ("mouseReleased", points[-1]),
        ):
            self._call(
                "Input.dispatchMouseEvent",
                **{"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1},
            )

    def hover(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def touch(self, *points: tuple[float, float]) -> None:
        """Put a finger on the first point, move it along the others, and lift it."""
        for at, (x, y) in enumerate(points):
            kind = "touchMove" if at else "touchStart"
            self._call("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
        self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def drop(self, selector: str, *files: Path) -> None:
        """Drag files onto an element, and let them go."""
        x, y = self.place(selector)
        dragged = {"items": [], "files": list(map(str, files)), "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", **{"type": kind, "x": x, "y": y, "data": dragged})

    def saved(self, folder: Path, selector: str) -> Path:
        """Click on what saves a file, and return it once it is there as a whole."""
        self._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self._events.clear()
        before = set(folder.iterdir())
        self.click(selector)
        while "Page.downloadProgress.completed" not in self._events:
            self._take(self._next())
        (found,) = set(folder.iterdir()) - before
        return found

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def shoot(self) -> bytes:
        """Return the whole page as PNG."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def _attach(self) -> None:
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._socket.sendall(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._calls:
            self._take(answer)
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def _take(self, event: dict[str, Any]) -> None:
        method = event.get("method", "")
        self._events.append(method)
        if method == "Page.downloadProgress":
            self._events.append(f"{method}.{event['params']['state']}")
        if method in COMPLAINTS:
            self.complaints.append(json.dumps(event["params"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            received = self._socket.recv(1 << 16)
            assert received, "the browser has ended"
            self._read += received
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))
