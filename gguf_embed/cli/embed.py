"""`gguf-embed embed`: vectors of texts, in one go."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.embed_formats import BINARY, Format, RowWriter, format_of_path, writing
from gguf_embed.cli.embed_output import writing_file
from gguf_embed.cli.flag_types import FilePath, Number
from gguf_embed.cli.one_shot import TEXTS_FROM, about, one_shot_options, open_model, texts_of
from gguf_embed.cli.standard_output import Use
from gguf_embed.cli.terminal import NO_TERMINAL_COLUMNS, width_of
from gguf_embed.errors import ConfigError, EmbedError, GivesScoresOnly, InvalidRequest, NoDenseVector, NotSupported
from gguf_embed.ingest.batches import batched

if TYPE_CHECKING:
    from gguf_embed.cli.one_shot import Text
    from gguf_embed.embedder.methods import TextModel
    from gguf_embed.types import FloatMatrix

BATCH_TEXTS = 512
EXAMPLES = """\b
gguf-embed embed "a cat on a mat" "ein Hund im Haus"
gguf-embed embed -f texts.txt -o vectors.npy
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedFlags:
    """The flags as click parsed them."""

    texts: tuple[str, ...]
    model: str | None
    endpoint: str | None
    api_key: str | None
    files: tuple[Path, ...]
    input_type: str | None
    dimensions: int | None
    truncate: bool
    format: Format | None
    output: Path | None


@click.command(cls=Command, use=Use.RESULT_OR_FILE, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@one_shot_options
@click.option(
    "--input-type", metavar="NAME", help="The model's prompt before each text: query or document. Default: none."
)
@click.option("--dimensions", type=Number(min=1), metavar="N", help="Keep the first N dimensions.")
@click.option("--truncate", is_flag=True, help="Cut texts over the model's limit instead of ending with an error.")
@click.option(
    "--format",
    type=click.Choice(get_args(Format)),
    help="Default: by the suffix of -o; else a table on a terminal, and JSON Lines elsewhere. Arrow is the file format "
    "with -o, and the stream format elsewhere.",
)
@click.option(
    "-o",
    "--output",
    type=FilePath(),
    metavar="FILE",
    help="Write into this file, which appears when it is complete.",
)
def embed(**typed: Any) -> None:
    """Print the vectors of texts.

    The texts are the arguments, the lines of files, or the lines of standard input. Any number of them can be read.
    """
    run(EmbedFlags(**typed))


def run(flags: EmbedFlags) -> None:
    """Memory does not depend on the number of texts. Raises `EmbedError`s and `UsageError`."""
    format_ = flags.format or _default_format(flags.output)
    if format_ in BINARY and flags.output is None and sys.stdout.isatty():
        raise click.UsageError(
            f"{format_} is not for a terminal: use -o FILE or a pipe", click.get_current_context(silent=True)
        )
    batches = batched(texts_of(flags.texts, flags.files, "text"), BATCH_TEXTS)
    first = next(batches, None)
    if first is None:
        raise ConfigError(f"there is no text to embed: all input is empty; {TEXTS_FROM}")
    with _writer(format_, flags.output) as writer, open_model(flags) as model:
        for batch in chain([first], batches):
            writer.write([text.text for text in batch], vectors_of(model, batch, flags))


def vectors_of(model: TextModel, batch: list[Text], flags: EmbedFlags) -> FloatMatrix:
    """float32[n_texts, n_dims]. Raises `EmbedError`s that name the place of the text."""
    try:
        return model.embed(
            [text.text for text in batch],
            prompt=flags.input_type,
            dimensions=flags.dimensions,
            truncate=flags.truncate,
        )
    except GivesScoresOnly as error:
        raise NotSupported(f"{error.problem}: use gguf-embed rerank, or another model") from None
    except NoDenseVector as error:
        raise NotSupported(
            f"{error.problem}: use another model, `gguf-embed ingest` to store them, or `gguf-embed serve` to get them "
            "over HTTP"
        ) from None
    except EmbedError as error:
        if isinstance(error, InvalidRequest) and error.param == "prompt":
            raise ConfigError(
                f"{error.problem}: leave --input-type out, or put the prompt before the texts yourself"
            ) from None
        raise about(error, batch, "shorten or split it, or use --truncate") from None


def _default_format(output: Path | None) -> Format:
    if output is not None:
        return format_of_path(output)
    return "table" if sys.stdout.isatty() else "jsonl"


def _writer(format_: Format, output: Path | None) -> AbstractContextManager[RowWriter]:
    if output is not None:
        return writing_file(format_, output, width=NO_TERMINAL_COLUMNS)
    return writing(format_, sys.stdout.buffer, width=width_of(sys.stdout) or NO_TERMINAL_COLUMNS, is_file=False)
