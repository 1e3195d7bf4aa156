"""Logs as JSON lines on stdout: what happened, when, how long it took; nothing of what a request contained."""

import json
import logging
import sys
from datetime import datetime, timezone

from utils.logger import LOGGER


class JsonLines(logging.Formatter):
    """One JSON object for a record; the fields are those of `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage().strip()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def setup_json_logging() -> None:
    """Send the project's messages, and warnings of all libraries, to stdout as JSON lines."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    for logger, level in ((LOGGER, logging.INFO), (logging.getLogger(), logging.WARNING)):
        logger.handlers[:] = [handler]
        logger.setLevel(level)
    LOGGER.propagate = False
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # It quotes what it cannot read.


def log(event: str, level: int = logging.INFO, **fields) -> None:
    LOGGER.log(level, event, extra={"fields": fields})
