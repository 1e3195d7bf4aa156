"""A server from its options to its end."""

import argparse
import ipaddress
import logging
import socket

from extras.serve.logs import log, setup_json_logging
from models.backends.base import require
from utils.files import read_text

PACKAGES = ("fastapi", "fastapi_offline", "uvicorn", "prometheus_client", "python_multipart", "httpx")


def serve(opt: argparse.Namespace) -> int:
    """Open the models and answer requests until SIGTERM or Ctrl-C; return 0 when all of them have been answered."""
    for package in PACKAGES:
        require(package, "serve", "serve.py")
    from extras.serve.app import build_app
    from extras.serve.service import Service

    check(opt)
    setup_json_logging()
    tokens = read_tokens(opt.token_file) if opt.token_file else []
    with listening_socket(opt.host, opt.port) as listener:
        service = Service(opt, tokens)
        announce(listener, service)
        try:
            server_for(opt, build_app(service), service).run(sockets=[listener])
        except KeyboardInterrupt:  # uvicorn raises the signal again that it has ended for.
            log("stopped")
        finally:
            service.stop()
    return 0


def announce(listener: socket.socket, service) -> None:
    """Log where the server listens, and a warning if that is open to others without a token."""
    host, port = listener.getsockname()[:2]
    if not service.tokens and not ipaddress.ip_address(host).is_loopback:
        log("open_to_all", logging.WARNING, advice="whoever reaches this port may use it: --token-file")
    log("listening", host=host, port=port, models=list(service.models.by_name), is_guarded=bool(service.tokens))


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
    """Return a socket on which clients wait until uvicorn takes it over. OSError with the flags if that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}") from None


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
