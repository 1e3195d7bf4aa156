"""A real browser for tests of pages."""

import json
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 60  # for the slowest step: the browser's start


class Browser:
    """Headless Chromium, driven through the pipe of its DevTools protocol: JSON messages that end in a zero byte."""

    def __init__(self, folder, *flags):
        line = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        line += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", *flags]
        # it reads from descriptor 3 and writes to 4
        shell = ["sh", "-c", 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2', "sh"]
        with open(folder / "chromium.log", "wb") as log:
            self.process = subprocess.Popen(
                [*shell, *line, "about:blank"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
            )
        self.number, self.session = 0, None
        [page] = [target for target in self.call("Target.getTargets")["targetInfos"] if target["type"] == "page"]
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.process.stdin.write(json.dumps(message).encode() + b"\0")
        self.process.stdin.flush()
        while True:
            answer = json.loads(self._read())
            if answer.get("id") == self.number:  # the others are events
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> bytes:
        message = bytearray()
        while (byte := self.process.stdout.read(1)) != b"\0":
            assert byte, "the browser has ended"
            message += byte
        return bytes(message)

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def choose(self, selector, file):
        """Give a file to a file input, as a user does."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def wait(self, script):
        """The script's first value that is true."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if value := self.evaluate(script):
                return value
            time.sleep(0.05)
        status = self.evaluate("document.body?.innerText")
        raise AssertionError(f"waited {SECONDS} s for: {script}\nthe page says: {status}")

    def close(self):
        self.process.stdin.close()  # ends it
        self.process.wait(SECONDS)
        self.process.stdout.close()
