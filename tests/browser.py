"""A headless Chromium for tests, driven over the DevTools protocol through a pipe: no port, no
library.
"""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
PATIENCE_S = 60


class Browser:
    """One tab; what it logged, threw and asked the network for is kept."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest = read, write, b""
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        self._asked_for: dict[str, str] = {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self.send(
            "Target.attachToTarget", targetId=target, flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    _session: str | None = None

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of one call."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda said: said.get("id") == number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Opens a file, forgetting what was noted before."""
        self.problems, self._asked_for = [], {}
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send("Page.navigate", url=page.as_uri())
        self._until(lambda said: said.get("method") == "Page.loadEventFired")
        self.settle()

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for, but for those that the page's policy stopped (these are
        problems).
        """
        return list(self._asked_for.values())

    def settle(self) -> None:
        """Waits until what was changed is drawn."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        done = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def click(self, selector: str, number: int = 0) -> None:
        """A real click in the middle of an element."""
        x, y = self.place_of(selector, number)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, selector: str, number: int = 0) -> None:
        """Moves the pointer to the middle of an element."""
        x, y = self.place_of(selector, number)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def place_of(self, selector: str, number: int = 0) -> tuple[float, float]:
        """The middle of an element in the window, after scrolling to it."""
        x, y = self.run(
            f"(() => {{ const node = document.querySelectorAll({json.dumps(selector)})[{number}];"
            "node.scrollIntoView({block: 'center'}); const at = node.getBoundingClientRect();"
            "return [at.x + at.width / 2, at.y + at.height / 2]; })()"
        )
        return x, y

    def press(self, key: str) -> None:
        """Presses a key: a name such as ``ArrowRight``, ``Enter`` or ``Tab``."""
        code = {
            "Enter": 13,
            "Tab": 9,
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
        }[key]
        held = {"key": key, "code": key, "windowsVirtualKeyCode": code} | (
            {"text": "\r"} if key == "Enter" else {}
        )
        self.send("Input.dispatchKeyEvent", type="keyDown", **held)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)

    def screenshot(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                said = json.loads(line)
                self._note(said)
                if wanted(said):
                    return said
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more

    def _note(self, said: dict[str, Any]) -> None:
        method, about = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.problems.append(json.dumps(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.problems.append(about["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"a dialog: {about['message']}")
        elif method == "Network.requestWillBeSent":
            self._asked_for[about["requestId"]] = about["request"]["url"]
        elif method == "Network.loadingFailed" and about.get("blockedReason") == "csp":
            self._asked_for.pop(about["requestId"], None)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser of its own, ended with the block."""
    assert CHROMIUM is not None
    to_child, from_child = os.pipe(), os.pipe()
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-extensions",
    ]
    flags += [
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
        "--disable-component-update",
        "--disable-background-networking",
    ]
    # The protocol is spoken on descriptors 3 and 4. A shell sets them, by way of numbers that no
    # pipe above has.
    line = f'exec 8<&{to_child[0]} 9>&{from_child[1]}; exec "$@" 3<&8 4>&9'
    child = subprocess.Popen(
        ["bash", "-c", line, "bash", CHROMIUM, *flags, "about:blank"],
        pass_fds=(to_child[0], from_child[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        os.close(to_child[0])
        os.close(from_child[1])
        yield Browser(from_child[0], to_child[1])
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        os.close(to_child[1])
        os.close(from_child[0])
