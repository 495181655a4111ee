"""What `serve` writes: lines for people, or one JSON object per line for programs."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

import click
import orjson

LogFormat = Literal["text", "json"]
SAYS = "gguf_embed.serve"
"""The logger's name of the lines that are said on standard output."""

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = {0: logging.WARNING, 1: logging.INFO}


class JsonFormatter(logging.Formatter):
    """A record as a JSON object: time, level, logger, message, and where there are some its fields, such as those of a
    request, its request_id and its exception."""

    def format(self, record: logging.LogRecord) -> str:
        extra: dict[str, object] = dict(getattr(record, "fields", {}))
        if request_id := getattr(record, "request_id", None):
            extra["request_id"] = request_id
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        return json_line(record.created, record.levelname.lower(), record.name, record.getMessage(), **extra)


def json_line(unix_s: float, level: str, logger: str, message: str, **extra: object) -> str:
    time = datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {"time": time, "level": level, "logger": logger, "message": message, **extra}
    clean = {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in fields.items()
    }
    return orjson.dumps(clean).decode()


class Console:
    """Where `serve` says what it does. Lines about problems are warnings."""

    def __init__(self, log_format: LogFormat = "text") -> None:
        self.log_format = log_format

    def say(self, line: str, level: str = "info") -> None:
        """One line on standard output."""
        if self.log_format == "json":
            level = "warning" if line.startswith(("serious ", "warning ")) else level
            line = json_line(datetime.now(UTC).timestamp(), level, SAYS, line)
        elif sys.stdout.isatty():
            line = wrapped(line, shutil.get_terminal_size().columns)
        click.echo(line)

    def start_log(self, verbose: int) -> None:
        """The log on standard error, with that of other packages."""
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if self.log_format == "json" else logging.Formatter(_TEXT))
        logging.basicConfig(level=_LEVELS.get(verbose, logging.DEBUG), handlers=[handler])
        if not verbose:  # aiohttp logs a traceback for every malformed request line: anyone could fill the log
            logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
        if self.log_format == "json":
            logging.captureWarnings(True)
            sys.excepthook = _log_exception


def wrapped(line: str, width: int) -> str:
    """A line on a terminal, its further lines below its text. A command is left whole, so that it can be copied."""
    if line.startswith("curl "):
        return line
    return textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


def _log_exception(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, where))
    message = f"{kind.__name__}: {error}"
    click.echo(json_line(datetime.now(UTC).timestamp(), "critical", SAYS, message, exception=text), err=True)


console = Console()
"""The one of this process."""


def choose_format(ctx: click.Context, param: click.Parameter, value: LogFormat) -> LogFormat:
    """For the flag, which is read before those that say something."""
    console.log_format = value
    return value
