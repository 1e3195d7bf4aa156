"""A server from its options to its end."""

import argparse
import ipaddress
import logging
import socket

from models.backends.base import require
from utils.files import read_text

PACKAGES = ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "multipart", "httpx")


def serve(opt: argparse.Namespace) -> int:
    """Open the models and answer requests until SIGTERM or Ctrl-C; return 0 when all of them have been answered."""
    for package in PACKAGES:
        require(package, "serve", "serve.py")
    from extras.serve.app import build_app
    from extras.serve.logs import log, setup_json_logging
    from extras.serve.service import Service

    check(opt)
    setup_json_logging()
    tokens = read_tokens(opt.token_file) if opt.token_file else []
    listener = listening_socket(opt.host, opt.port)
    service = Service(opt, tokens)
    host, port = listener.getsockname()[:2]
    if not tokens and not ipaddress.ip_address(host).is_loopback:
        log("open_to_all", logging.WARNING, advice="whoever reaches this port may use it: --token-file")
    listener.listen()  # Whoever comes from now on waits, until uvicorn takes the socket over.
    log("listening", host=host, port=port, models=list(service.models.by_name), is_guarded=bool(tokens))
    try:
        server_for(opt, build_app(service), service).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises the signal again that it has ended for.
        log("stopped")
    finally:
        service.stop()
    return 0


def check(opt: argparse.Namespace) -> None:
    """Raise ValueError for options that do not go together."""
    if opt.batch_size < 1:
        raise ValueError(f"--batch-size: expected a whole number from 1, found {opt.batch_size}")
    if opt.max_pictures > opt.queue:
        raise ValueError(f"--max-pictures: expected at most --queue {opt.queue}, found {opt.max_pictures}")


def read_tokens(file: str) -> list[str]:
    """Return the tokens of a file, one a line. ValueError if there is none."""
    tokens = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not tokens:
        raise ValueError(f"{file}: expected a token on each line, found none")
    return tokens


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket; OSError that names the flags if that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from None
    listener.set_inheritable(True)
    return listener


def server_for(opt: argparse.Namespace, app, service):
    """Return the uvicorn server; SIGHUP reads the models anew where there is such a signal."""
    import uvicorn

    from extras.serve.server import MAX_HEAD_BYTES, Connection, Server

    limits = {"receive_s": opt.receive_s, "most": opt.connections}
    config = uvicorn.Config(
        app, http=type("LimitedConnection", (Connection,), limits), ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_graceful_shutdown=max(int(opt.stop_s), 1), loop="asyncio", proxy_headers=False,
    )  # fmt: skip

    def stopping() -> None:
        service.is_stopping = True

    return Server(config, opt.drain_s, stopping)
