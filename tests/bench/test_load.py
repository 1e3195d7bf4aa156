"""The clients of bench/load.py count answers, refusals and errors, and find the port that a server prints."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.load import load
from bench.rows.serve import port_in


class Handler(BaseHTTPRequestHandler):
    """A server that answers by the body: its status, or it closes the connection."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"close":
            return
        self.send_response(int(body))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def test_answers_refusals_and_errors_are_counted():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = load(server.server_port, "/", [b"200", b"429", b"500", b"close"], clients=3, seconds=0.5)
        server.shutdown()
    assert set(found.statuses) == {200, 429, 500, "RemoteDisconnected"}
    assert len(found.seconds) == found.statuses[200] > 1
    assert found.errors == found.statuses[500] + found.statuses["RemoteDisconnected"]
    assert f"{found.errors} errors" in found.summary() and found.elapsed_s >= 0.5


@pytest.mark.parametrize(
    "text, port",
    [
        ('{"event": "image size [1, 2]"}\n{"event": "listening", "host": "127.0.0.1", "port": 4711, "x": 1}\n', 4711),
        (" * Serving Flask app\n4712\n", 4712),
        ("4712", None),
        ("", None),
    ],
)
def test_the_port_that_a_server_prints(text, port, tmp_path):
    (tmp_path / "log").write_text(text)
    assert port_in(tmp_path / "log") == port
