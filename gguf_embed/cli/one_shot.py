"""What `embed` and `rerank` share: the flags that name a model, and the texts of arguments, files and stdin."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeVar

import click
import orjson

from gguf_embed.cli.flag_types import FilePath, NotEmpty
from gguf_embed.cli.model_flags import API_KEY, check_place, model_option, with_options
from gguf_embed.errors import ConfigError, EmbedError

if TYPE_CHECKING:
    from gguf_embed.embedder.methods import TextModel

_F = TypeVar("_F", bound=Callable[..., Any])

TEXTS_FROM = "add it as an argument, name a file with --file, or pipe texts into the command"
"""Where a missing text may come from."""

_STDIN = Path("-")
_OBJECT = re.compile(rb'\s*\{\s*["}]')  # how a JSON object begins
_JSON_LINES = (".jsonl", ".ndjson")

_OPTIONS = (
    model_option("; with --endpoint, the name that the server knows.  [default: all-MiniLM-L6-v2]"),
    click.option(
        "--endpoint",
        type=NotEmpty("the URL of a server"),
        metavar="URL",
        help="Ask this server instead of loading a model.",
    ),
    API_KEY,
    click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        type=FilePath(exists=True, allow_dash=True),
        metavar="FILE",
        help="Read one text per line, or the field `text` of JSON Lines (.jsonl); - is standard input. Repeatable.",
    ),
)


class ModelFlags(Protocol):
    """The flags that say where the model is."""

    @property
    def model(self) -> str | None: ...
    @property
    def endpoint(self) -> str | None: ...
    @property
    def api_key(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Text:
    """A text, and where a person finds it."""

    text: str
    place: str  # "data.txt:17"


def one_shot_options(command: _F) -> _F:
    """-m, --endpoint, --api-key and --file."""
    return with_options(command, _OPTIONS)


def open_model(flags: ModelFlags) -> TextModel:
    """Loads the model, or connects to the endpoint. Raises `EmbedError`s. What takes long is told on a terminal."""
    check_place(flags)
    if flags.endpoint:
        from gguf_embed.embedder.client import Client

        return Client(flags.endpoint, model=flags.model, api_key=flags.api_key)
    from gguf_embed.embedder.embedder import Embedder

    with _told(logging.getLogger("gguf_embed.embedder")):
        return Embedder(flags.model)


@contextmanager
def _told(log: logging.Logger) -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    handler, level = logging.StreamHandler(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def texts_of(arguments: Sequence[str], files: Sequence[Path], noun: str) -> Iterator[Text]:
    """Arguments, then files, in order; standard input if there are neither. `noun` is what they are called.

    Raises `UsageError` at once if there is nothing to read, and `ConfigError` for a text that is empty or unreadable.
    Empty lines of plain texts are skipped, and counted on stderr.
    """
    if not arguments and not files and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError(
            f"no {noun} given: {TEXTS_FROM}",
            click.get_current_context(silent=True),
        )
    return _texts(arguments, files or ([] if arguments else [_STDIN]), noun)


def _texts(arguments: Sequence[str], files: Sequence[Path], noun: str) -> Iterator[Text]:
    for number, text in enumerate(arguments, 1):
        if not text.strip():
            raise ConfigError(f"{noun} {number} is empty: leave it out")
        yield Text(text, f"{noun} {number}")
    for path in files:
        name = "stdin" if path == _STDIN else str(path)
        try:
            if path == _STDIN:
                yield from _of_stream(_stdin(), name, is_json=None)
                continue
            with path.open("rb") as stream:
                yield from _of_stream(stream, name, is_json=path.suffix.lower() in _JSON_LINES)
        except OSError as error:
            raise ConfigError(f"{name} cannot be read: {error.strerror}") from error


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise ConfigError("stdin is closed: leave out -, or pipe texts into the command")
    return sys.stdin.buffer


def _of_stream(stream: BinaryIO, name: str, *, is_json: bool | None) -> Iterator[Text]:
    """`is_json`: None if the first line decides."""
    n_empty = 0
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            n_empty += 1
            continue
        if is_json is None:
            is_json = _OBJECT.match(line) is not None
        place = f"{name}:{number}"
        yield Text(_field(line, place) if is_json else _decoded(line, place), place)
    if n_empty and not is_json:
        click.echo(f"{name}: skipped {n_empty} empty line{'s' if n_empty > 1 else ''}", err=True)


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(f"{place} is not UTF-8: convert the file, for example with iconv -t utf-8") from None


def _field(line: bytes, place: str) -> str:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{place} is not JSON ({error.msg}): correct the line, or leave it out") from None
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ConfigError(f"{place} has no field 'text' with a string: each line needs one")
    if not text.strip():
        raise ConfigError(f"{place} has an empty text: leave the line out")
    return text


def about(error: EmbedError, texts: Sequence[Text], way_out: str) -> EmbedError:
    """An error in the words of a command: about a text with its place, and the way out if it is too long."""
    from gguf_embed.embedder.words import reason
    from gguf_embed.errors import AuthenticationFailed, DocumentTooLong, InputTooLong

    if isinstance(error, AuthenticationFailed):
        what = error.message.partition(': send "Authorization')[0]
        return AuthenticationFailed(f"{what}: set --api-key or GGUF_EMBED_API_KEY")

    index = getattr(error, "index", None)
    if not isinstance(index, int) or not 0 <= index < len(texts):
        return error
    what = reason(error)
    if isinstance(error, DocumentTooLong):
        what = f"and the query have {error.n_tokens} tokens together, the limit for both is {error.limit}"
    if not isinstance(error, InputTooLong):
        return ConfigError(f"{texts[index].place} {what}")
    n_others = len(error.others)
    others = f", and {n_others:,} more {'is' if n_others == 1 else 'are'} too long" if n_others else ""
    return ConfigError(f"{texts[index].place} {what}{others}: {way_out}")
