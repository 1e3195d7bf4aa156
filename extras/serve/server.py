"""uvicorn with what it leaves to a proxy: a limit of time for a request to come, of connections, and a gentle end."""

import signal
import threading

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_HEAD_BYTES = 16384
LINGER_S = 1.0  # more than the application gives itself, so that its answer comes first
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\ncontent-type: application/json\r\n"
    b'content-length: 47\r\n\r\n{"detail":"there are too many connections now"}'
)


class Connection(H11Protocol):
    """A connection that is closed when a request has not wholly come in time."""

    receive_s = 20.0
    most = 256

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self.is_new = True  # no byte of the next request has come
        self.timer = None
        if len(self.connections) > self.most:
            transport.write(FULL)
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self.is_new:
            self.is_new = False
            self._stop_watch()
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # Nonsense came behind an answered request; there is nobody to answer.
            self.transport.close()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.is_new = self.conn.their_state is h11.IDLE
        self._watch()

    def connection_lost(self, exc) -> None:
        self._stop_watch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Let the time run while something of a request is still to come."""
        is_coming = self.conn.their_state in (h11.IDLE, h11.SEND_BODY)
        if is_coming and self.timer is None and not self.transport.is_closing():
            self.timer = self.loop.call_later(self.receive_s + LINGER_S, self.transport.abort)
        elif not is_coming:
            self._stop_watch()

    def _stop_watch(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Server(uvicorn.Server):
    """A server that says at the signal that it is stopping, and closes its port `drain_s` later."""

    def __init__(self, config: uvicorn.Config, drain_s: float, on_stop):
        super().__init__(config)
        self.drain_s, self.on_stop = drain_s, on_stop

    def handle_exit(self, sig: int, frame) -> None:
        if self.drain_s and sig == signal.SIGTERM and not self._captured_signals:
            self._captured_signals.append(sig)
            timer = threading.Timer(self.drain_s, setattr, (self, "should_exit", True))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)
        self.on_stop()
