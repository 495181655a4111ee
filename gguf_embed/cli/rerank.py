"""`gguf-embed rerank`: documents by relevance to a query."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import numpy as np
import orjson

from gguf_embed.cli.command import Command
from gguf_embed.cli.flag_types import Number
from gguf_embed.cli.one_shot import TEXTS_FROM, Text, about, one_shot_options, open_model, texts_of
from gguf_embed.cli.terminal import shortened, width_of
from gguf_embed.errors import ConfigError, EmbedError, GivesScoresOnly, NoDenseVector, NotSupported

if TYPE_CHECKING:
    from gguf_embed.embedder.facts import Ranked
    from gguf_embed.embedder.methods import TextModel

By = Literal["score", "embedding"]

EXAMPLE = """\b
gguf-embed rerank -m bge-reranker-base "how tall is the tower" "It has 324 m." "It is in Paris."
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankFlags:
    """The flags as click parsed them."""

    query: str
    documents: tuple[str, ...]
    model: str | None
    endpoint: str | None
    api_key: str | None
    files: tuple[Path, ...]
    top: int | None
    by: By
    json: bool


@click.command(cls=Command, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLE)
@click.argument("query")
@click.argument("documents", nargs=-1, metavar="[DOCUMENT]...")
@one_shot_options
@click.option("-n", "--top", type=Number(min=1), metavar="N", help="Print only the best N. Default: all.")
@click.option(
    "--by",
    type=click.Choice(["score", "embedding"]),
    default="score",
    show_default=True,
    help="The score of a reranker, or the cosine of the vectors of any embedding model.",
)
@click.option("--json", is_flag=True, help="Print one JSON object per document.")
def rerank(**typed: Any) -> None:
    """Print documents by relevance to a query, best first.

    The documents are the arguments, the lines of files, or the lines of standard input.
    """
    flags = RerankFlags(**typed)
    if not flags.query.strip():
        raise ConfigError("the query is empty: write a question or a few words")
    documents = list(texts_of(flags.documents, flags.files, "document"))
    if not documents:
        raise ConfigError(f"there is no document to rank: all input is empty; {TEXTS_FROM}")
    with open_model(flags) as model:
        ranked = ranking(model, flags, documents)
    width = width_of(sys.stdout)
    for line in lines_of(ranked, documents, as_json=flags.json, width=width):
        click.echo(line)


def ranking(model: TextModel, flags: RerankFlags, documents: Sequence[Text]) -> list[Ranked]:
    """Best first. Raises `EmbedError`s that name the place of the document."""
    texts = [document.text for document in documents]
    try:
        if flags.by == "embedding":
            return _by_embedding(model, flags, texts)
        return model.rerank(flags.query, texts, flags.top)
    except GivesScoresOnly as error:
        raise NotSupported(f"{error.problem}: leave out --by embedding, or use an embedding model") from None
    except NoDenseVector as error:
        raise NotSupported(f"{error.problem}: use an embedding model, or a reranker without --by embedding") from None
    except NotSupported as error:
        if flags.by == "embedding":
            raise
        known = "" if flags.endpoint else " (`gguf-embed list --catalog rerank` lists some)"
        raise NotSupported(f"{error.problem}: use a reranker{known}, or --by embedding") from None
    except EmbedError as error:
        raise about(error, documents, "shorten it") from None


def _by_embedding(model: TextModel, flags: RerankFlags, texts: Sequence[str]) -> list[Ranked]:
    from gguf_embed.embedder.facts import Ranked

    scores = model.similarity(model.embed_query(flags.query), model.embed_documents(texts))[0]
    best = np.argsort(-scores, kind="stable")[: flags.top]
    return [Ranked(int(index), float(scores[index])) for index in best]


def lines_of(ranked: Sequence[Ranked], documents: Sequence[Text], *, as_json: bool, width: int | None) -> Iterator[str]:
    """`width`: columns of the terminal; None: texts are not cut."""
    for hit in ranked:
        document = documents[hit.index]
        if as_json:
            row = {"index": hit.index, "score": hit.score, "text": document.text, "place": document.place}
            yield orjson.dumps(row).decode()
        else:
            score = f"{hit.score:8.4f}  "
            text = " ".join(document.text.split())
            yield score + (shortened(text, max(20, width - len(score))) if width else text)
