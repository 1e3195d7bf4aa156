"""The project's logger and terminal colours. Imports the standard library alone."""

import logging
import os
import sys

LOGGER = logging.getLogger("yolov5_edgevit")
STYLES = {"error": "31", "warning": "33", "heading": "1;34", "good": "32"}  # ANSI codes


def setup_logging(verbose: bool = True) -> None:
    """Print INFO (or, if not verbose, ERROR) messages bare on stdout. Called by main(), never on import."""
    if not any(isinstance(handler, _StdoutHandler) for handler in LOGGER.handlers):
        handler = _StdoutHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO if verbose else logging.ERROR)


class _StdoutHandler(logging.StreamHandler):
    """Looks stdout up at each message, so that a replaced sys.stdout is honoured."""

    def __init__(self):
        super().__init__(sys.stdout)

    def emit(self, record):
        self.stream = sys.stdout
        super().emit(record)


def colorize(text: str, style: str) -> str:
    """`text` in one of the STYLES styles where stdout is a terminal and NO_COLOR is not set, else unchanged."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{STYLES[style]}m{text}\033[0m"
