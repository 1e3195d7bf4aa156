"""What a server stands: a minute of 64 clients, and 10,000 requests that mean it harm."""

import random
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.load import load
from tests.running_server import RunningServer

CLIENTS, SECONDS = 64, 60
REQUESTS, WORKERS = 10_000, 16
FLAT_MB = 48  # more than this it must not grow between the first fifth of the requests and the last
HEAD = "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"

pytestmark = pytest.mark.slow


def test_a_minute_of_64_clients(folder, pictures):
    with RunningServer(f"{folder}/a.onnx") as server:
        found = load(server.port, "/v1/detect", pictures, CLIENTS, SECONDS)
        assert found.errors == 0 and found.statuses[200] > CLIENTS
        print(f"\n{found.summary()}, {found.statuses[200] / found.elapsed_s:,.0f} a second")
        assert server.stop() == 0
    assert not server.errors


def bombs(jpeg: bytes) -> list:
    """A PNG that claims 3.6 thousand millions of pixels, one of 25 millions in 25 kB, and a JPEG of 10,000 scans."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    claim = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    claim += b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    zeros = cv2.imencode(".png", np.zeros((5_000, 5_000), np.uint8))[1].tobytes()
    start = jpeg.find(b"\xff\xda")
    return [claim, zeros, jpeg[:start] + jpeg[start : start + 14] * 10_000 + jpeg[start:]]


class Hostile:
    """Requests of many kinds, made with a seed."""

    def __init__(self, folder: Path, seed: int):
        self.rng = random.Random(seed)
        image = cv2.imread(str(folder / "1.png"))
        encoded = [cv2.imencode(suffix, image)[1].tobytes() for suffix in (".png", ".jpg", ".webp", ".bmp", ".tiff")]
        self.pictures, self.good = encoded, encoded[0]
        self.bombs = bombs(encoded[1])

    def body(self, data: bytes, kind: str = "image/jpeg", length: int | None = None) -> bytes:
        return HEAD.format(kind=kind, length=len(data) if length is None else length).encode() + data

    def cut(self) -> bytes:
        data = self.rng.choice(self.pictures)
        return self.body(data[: self.rng.randrange(len(data))])

    def mutated(self) -> bytes:
        data = bytearray(self.rng.choice(self.pictures))
        for _ in range(self.rng.randrange(1, 40)):
            data[self.rng.randrange(len(data))] = self.rng.randrange(256)
        return self.body(bytes(data))

    def bomb(self) -> bytes:
        return self.body(self.rng.choice(self.bombs))

    def wrong_type(self) -> bytes:
        kinds = [
            "text/html",
            "",
            "multipart/form-data",
            "application/json",
            "image/jpeg\t",
            "multipart/form-data; boundary",
        ]
        return self.body(self.rng.randbytes(200), self.rng.choice(kinds))

    def form(self) -> bytes:
        part = b'--b\r\nContent-Disposition: form-data; name="i"; filename="../../x"\r\n\r\n'
        parts = [part + self.good + b"\r\n", part, b"--b\r\n", b"--b--\r\n", b"\r\n\r\n", self.rng.randbytes(50)]
        return self.body(b"".join(self.rng.choices(parts, k=self.rng.randrange(30))), "multipart/form-data; boundary=b")

    def huge_head(self) -> bytes:
        return b"POST /v1/detect HTTP/1.1\r\nX: " + b"x" * self.rng.randrange(10_000, 200_000) + b"\r\n\r\n"

    def many_heads(self) -> bytes:
        lines = b"".join(b"X-%d: y\r\n" % i for i in range(self.rng.randrange(5_000)))
        return b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + lines + b"\r\n"

    def nonsense(self) -> bytes:
        return self.rng.randbytes(self.rng.randrange(1, 2_000))

    def too_long(self) -> bytes:
        return self.body(bytes(1_000), length=10 ** self.rng.randrange(8, 30))

    def chunks(self) -> bytes:
        head = "POST /v1/detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head.encode() + self.rng.choice(
            [b"zz\r\nx", b"-5\r\n", b"fffffffffffffffff\r\n", b"3\r\nabc\r\n0\r\n\r\nGET"]
        )

    def unfinished(self) -> bytes:
        data = self.body(self.good)
        return data[: self.rng.randrange(len(data))]

    def pipelined(self) -> bytes:
        return b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * self.rng.randrange(1, 200)

    def wrong_path(self) -> bytes:
        path = self.rng.choice(
            ["/../../etc/passwd", "/page/../app.py", "/v1/detect?conf=nan", "/%00", "/v1/models/%2e%2e/reload"]
        )
        return f"{self.rng.choice(['GET', 'POST', 'BREW'])} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()

    def request(self) -> bytes:
        names = "cut mutated bomb wrong_type form huge_head many_heads nonsense too_long chunks unfinished pipelined"
        return getattr(self, self.rng.choice([*names.split(), "wrong_path"]))()


def send(port: int, data: bytes, rng: random.Random) -> str:
    """The first line of what comes back, "" if nothing did. Some bodies come slowly, some clients leave at once."""
    manner = rng.random()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            if manner < 0.02:
                for start in range(0, len(data[:40]), 8):
                    connection.sendall(data[start : start + 8])
                    time.sleep(0.1)
            else:
                connection.sendall(data)
            if manner > 0.9:
                return "left"
            connection.settimeout(3)
            return connection.recv(4096).split(b"\r\n")[0].decode("latin-1")
        except (ConnectionError, TimeoutError):
            return ""


def test_10_000_hostile_requests(folder, pictures):
    """The server is there afterwards, has written no traceback, and holds no more memory than at the beginning."""
    flags = ["--receive-s", 1, "--max-mb", 2, "--max-mpx", 20]
    with RunningServer(f"{folder}/a.onnx", flags=flags) as server:
        expected = server.client.post("/v1/detect", files={"image": pictures[0]}).json()
        answers, memory_mb, lock = Counter(), [], threading.Lock()

        def work(seed: int) -> None:
            hostile = Hostile(folder, seed)
            for _ in range(REQUESTS // WORKERS):
                answer = send(server.port, hostile.request(), hostile.rng)
                with lock:
                    answers[answer[:12]] += 1
                    if sum(answers.values()) % (REQUESTS // 5) == 0:
                        memory_mb.append(server.memory_mb())

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, range(WORKERS)))
        print(f"\n{sum(answers.values()):,} requests, {dict(answers)}, MB {[round(mb) for mb in memory_mb]}")
        assert server.client.post("/v1/detect", files={"image": pictures[0]}).json() == expected
        assert sum(answers.values()) == REQUESTS and answers["HTTP/1.1 500"] == 0
        assert memory_mb[-1] - memory_mb[0] < FLAT_MB
        metrics = server.client.get("/metrics").text
        assert "serve_held_bytes 0.0" in metrics and "serve_pictures_at_hand 0.0" in metrics
        assert server.stop() == 0
    assert "Traceback" not in "".join(server.lines + server.errors)
    assert not server.events("failure")
