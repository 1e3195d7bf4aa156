"""The project's logger and terminal colours. Imports the standard library alone."""

import logging
import os
import sys

LOGGER = logging.getLogger("yolov5_edgevit")
ANSI_CODES = {"bold": 1, "underline": 4} | {
    prefix + color: base + i
    for prefix, base in (("", 30), ("bright_", 90))
    for i, color in enumerate(("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"))
}
STYLES = {"error": ("red",), "warning": ("yellow",), "heading": ("bold", "blue"), "good": ("green",)}


def setup_logging(verbose: bool = True) -> None:
    """Print INFO (or, if not verbose, ERROR) messages on stdout. Called by main(), never on import."""
    if not any(isinstance(handler, _StdoutHandler) for handler in LOGGER.handlers):
        handler = _StdoutHandler()
        handler.setFormatter(_LevelFormatter())
        LOGGER.addHandler(handler)
        LOGGER.propagate = False
    LOGGER.setLevel(logging.INFO if verbose else logging.ERROR)


class _LevelFormatter(logging.Formatter):
    """The bare message, after "WARNING: " or "ERROR: " if it is one."""

    def format(self, record: logging.LogRecord) -> str:
        # Names of files need not be UTF-8; what cannot be written is shown by its number.
        text = super().format(record).encode("utf-8", "backslashreplace").decode()
        if record.levelno < logging.WARNING:
            return text
        return colorize(f"{record.levelname}: ", "warning" if record.levelno < logging.ERROR else "error") + text


class _StdoutHandler(logging.StreamHandler):
    """A handler that looks stdout up at each message, so that a replaced sys.stdout is honoured."""

    def __init__(self):
        super().__init__(sys.stdout)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        if self.stream is not None:  # It was closed before Python began.
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise what writing has met, a closed pipe or a full disk, instead of a report for each message."""
        if isinstance(sys.exc_info()[1], OSError):
            raise
        super().handleError(record)


def colorstr(*args: object) -> str:
    """Return the last argument in the ANSI styles named by the others (default: blue, bold).

    It stays plain where stdout is no terminal or NO_COLOR is set.
    """
    *styles, text = args
    if sys.stdout is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return str(text)
    codes = ";".join(str(ANSI_CODES[str(style)]) for style in styles or ("blue", "bold"))
    return f"\033[{codes}m{text}\033[0m"


def colorize(text: str, style: str) -> str:
    """Return `text` in one of STYLES, as colorstr does."""
    return colorstr(*STYLES[style], text)
