"""Writes the tables of fields in docs/api.md: `python -m gguf_embed.server.docs.markdown docs/api.md`.

A table stands between `<!-- fields: NAME -->`, with the name of a `Body`, and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from gguf_embed.server.app import DIALECTS
from gguf_embed.server.docs.openapi import expand
from gguf_embed.server.docs.schema_text import type_words
from gguf_embed.server.fields.field import Body, Field

_TABLE = re.compile(r"(<!-- fields: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = ("| Field | Type | Default | Meaning |", "|---|---|---|---|")


def bodies() -> dict[str, Body]:
    """All requests of the dialects, and the groups of fields in them, by name."""
    requests = [body for dialect in DIALECTS for body in dialect.bodies]
    return {body.name: body for request in requests for body in (*request.groups, request)}


def render(page: str, known: Mapping[str, Body]) -> str:
    """The page with its tables as the declarations say. Raises `KeyError` for a name that is none."""
    return _TABLE.sub(lambda found: found[1] + table(known[found[2]]) + found[3], page)


def table(body: Body) -> str:
    """One row for each field, and one for each group, whose fields have a table of their own."""
    return "".join(f"{line}\n" for line in (*_HEAD, *_rows(body)))


def _rows(body: Body) -> Iterator[str]:
    for field in body.fields:
        yield _row(f"`{field.name}`", _type(field), "required" if field.required else field.default, _meaning(field))
    for group in body.groups:
        names = ", ".join(f"`{field.name}`" for field in group.fields)
        yield _row(names, "", group.default, f"{group.text} See {_link(group.see)}.")


def _row(*cells: str) -> str:
    return "".join(f"| {cell.strip()} " if cell else "| " for cell in cells) + "|"


def _type(field: Field) -> str:
    if field.see and "ref" in field.values:
        return f"see {_link(field.see)}"
    return re.sub(r'("[^"]*")', r"`\1`", type_words(expand(field.values)))


def _meaning(field: Field) -> str:
    see = "" if "ref" in field.values else _link(field.see)
    also = f"Also: {', '.join(f'`{name}`' for name in field.also)}." if field.also else ""
    return " ".join(part for part in (field.text, also, see and f"See {see}.") if part)


def _link(heading: str) -> str:
    """A link to a section of the page."""
    anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
    return f"[{heading}](#{anchor})" if heading else ""


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(render(path.read_text("utf-8"), bodies()), "utf-8")
