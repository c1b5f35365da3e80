"""A headless Chromium driven through its DevTools protocol: what a page says, shows and does under the cursor."""

import base64
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next((path for name in NAMES if (path := shutil.which(name))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # Chromium refuses its sandbox to root
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
    "--window-size=1200,900",
)


class Browser:
    """One page in one process; `errors` and `requests` collect what it complains of and asks for."""

    def __init__(self, patience=60.0):
        import websocket

        self.patience, self.errors, self.requests, self._count = patience, [], [], 0
        self._loaded = False
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [EXECUTABLE, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port, path = self._address()
            self._socket = websocket.create_connection(
                f"ws://127.0.0.1:{port}{path}", timeout=patience, suppress_origin=True
            )
            target = self.call("Target.getTargets")["targetInfos"]
            page = next(t["targetId"] for t in target if t["type"] == "page")
            self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    _socket = _session = None

    def _address(self):
        file, end = pathlib.Path(self._profile.name) / "DevToolsActivePort", time.monotonic() + self.patience
        while time.monotonic() < end and self._process.poll() is None:
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines
            time.sleep(0.05)
        raise RuntimeError(f"{EXECUTABLE} did not start")

    def call(self, method, **parameters):
        """Call a method of the protocol and wait for its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = self._hear()
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _hear(self):
        message = json.loads(self._socket.recv())
        said, about = message.get("method"), message.get("params", {})
        if said == "Runtime.exceptionThrown":
            self.errors.append(about["exceptionDetails"])
        elif said == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(about["args"])
        elif said == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"])
        elif said == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif said == "Page.loadEventFired":
            self._loaded = True
        return message

    def open(self, path):
        """Open a file and wait until it has loaded."""
        self._loaded = False
        self.call("Page.navigate", url=pathlib.Path(path).absolute().as_uri())
        while not self._loaded:
            self._hear()

    def evaluate(self, expression):
        """The value of a JavaScript expression, promises awaited."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression):
        """Wait for an expression to be true, or fail."""
        end = time.monotonic() + self.patience
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def move(self, x, y):
        """Move the mouse to a place in the window, pixels."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        """Press and release the left button there."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path):
        """The window as a PNG."""
        pathlib.Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def close(self):
        """End the process and remove its profile."""
        if self._socket is not None:
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()
