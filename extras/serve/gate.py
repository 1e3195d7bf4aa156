"""The outermost layer of the application: time limit, headings, a line in the log and counters for each request."""

import asyncio
import time
import uuid

from extras.serve.deadline import within
from extras.serve.logs import log
from extras.serve.service import Service
from utils.logger import LOGGER

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"x-frame-options", b"DENY"),
)
LAST = ((b"connection", b"close"),)
UNLOGGED = ("/healthz", "/readyz", "/metrics")  # asked every few seconds
FAILED = b'{"detail":"the server has failed; its log says why"}'
LATE = b'{"detail":"there was no time for this request"}'


class Gate:
    """An ASGI application around another one. Nothing that goes wrong inside leaves it as an exception."""

    def __init__(self, app, service: Service):
        self.app, self.service, self.metrics, self.timeout_s = app, service, service.metrics, service.opt.timeout_s

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = Answer(send, LAST if self.service.is_stopping else ())
        scope["facts"] = facts = {"id": answer.id}
        try:
            await within(self.timeout_s, self.app(scope, receive, answer.send))
        except asyncio.TimeoutError:
            await answer.send_whole(503, LATE, (b"retry-after", b"5"))
        except Exception:
            LOGGER.exception("failure", extra={"fields": {"id": answer.id, "path": path_of(scope)}})
            await answer.send_whole(500, FAILED)
        self._record(scope, answer, facts)

    def _record(self, scope, answer: "Answer", facts: dict) -> None:
        path, seconds = path_of(scope), time.perf_counter() - answer.start_s
        self.metrics.requests.labels(path, str(answer.status)).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if path not in UNLOGGED:
            facts |= {"method": scope["method"][:10], "path": path, "status": answer.status}
            log("request", **facts, ms=round(1e3 * seconds, 1))


class Answer:
    """The way of an answer to the client: it gets headings and a number, and its status is known afterwards."""

    def __init__(self, send, more_headers=()):
        self._send, self.more_headers = send, more_headers
        self.id, self.start_s = uuid.uuid4().hex[:16], time.perf_counter()
        self.status = 0  # nothing was answered: the client has gone

    async def send(self, message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            more = (*HEADERS, (b"x-request-id", self.id.encode()), *self.more_headers)
            message["headers"] = [*message["headers"], *more]
        await self._send(message)

    async def send_whole(self, status: int, body: bytes, *headers) -> None:
        """Answer with JSON, unless something has been sent already."""
        if self.status:
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def path_of(scope) -> str:
    """Return the path of the route, so that clients cannot make up names in logs and counters."""
    return getattr(scope.get("route"), "path", "other")
