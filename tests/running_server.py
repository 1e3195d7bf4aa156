"""A real serve.py in a process of its own, where neither PyTorch nor other packages of training can be imported."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
from conftest import ROOT

SERVE_WITHOUT = """
import runpy, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "tqdm", "pandas", "matplotlib", "onnx", "scipy"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
sys.path.insert(0, ROOT)
sys.argv = ["serve.py", *sys.argv[1:]]
runpy.run_path(ROOT + "/serve.py", run_name="__main__")
"""


class RunningServer:
    """`with RunningServer(weights, *flags) as server`: it listens on a free port of this machine, and is then ended."""

    def __init__(self, *weights, flags=()):
        code = f"ROOT = {str(ROOT)!r}\n{SERVE_WITHOUT}"
        command = [sys.executable, "-c", code, "--weights", *map(str, weights), "--port", "0", *map(str, flags)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=Path(weights[0].split("=")[-1]).parent, **streams)
        self.lines, self.errors = [], []
        self.listening = threading.Event()
        pipes = ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        self.threads = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for thread in self.threads:
            thread.start()

    def _read(self, pipe, lines: list) -> None:
        for line in pipe:
            lines.append(line)
            if '"event": "listening"' in line:
                self.port = json.loads(line)["port"]
                self.listening.set()
        self.listening.set()

    def __enter__(self) -> "RunningServer":
        assert self.listening.wait(60) and self.process.poll() is None, "".join(self.errors)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        return self

    def __exit__(self, *_) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.stop()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(signal_number)
        code = self.process.wait(60)
        for thread in self.threads:
            thread.join(10)
        return code

    def events(self, name: str = "") -> list[dict]:
        """Return the log's lines, those of one event if it is named."""
        lines = [json.loads(line) for line in list(self.lines)]
        return [line for line in lines if name in ("", line["event"])]

    def memory_mb(self) -> float:
        """Return the memory that the process holds now (Linux)."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024
