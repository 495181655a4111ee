"""The kinds of errors as a table of `/docs`, from the classes that are raised and the mapping to OpenAI's names."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from gguf_embed.errors import EmbedError
from gguf_embed.server.fields.openai_errors import TYPES
from gguf_embed.server.http.errors import STATUSES

_HEAD = ("Kind", "Status", "OpenAI's type and code", "When")


def error_table() -> str:
    """A section with one row for each kind that a reply may have."""
    meanings = dict(_meanings(EmbedError))
    rows = "".join(_row(kind, status, meanings.get(kind, "")) for kind, status in STATUSES.items())
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in _HEAD)
    table = f'<table class="fields"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<section class="card" id="errors">{table}</section>'


def _row(kind: str, status: int, meaning: str) -> str:
    names = ", ".join(f"<code>{escape(name)}</code>" for name in TYPES[kind])
    return (
        f'<tr><th scope="row"><code>{escape(kind)}</code></th><td>{status}</td><td>{names}</td>'
        f"<td>{escape(meaning)}</td></tr>"
    )


def _meanings(parent: type[EmbedError]) -> Iterator[tuple[str, str]]:
    """Kind and the first sentence about it, for each class below that declares a kind."""
    for child in parent.__subclasses__():
        if "kind" in vars(child):
            yield child.kind, (child.__doc__ or "").partition("\n")[0].partition(". ")[0].rstrip(".") + "."
        yield from _meanings(child)
