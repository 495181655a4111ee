"""`GET /docs`: the OpenAPI description as one page. Its script, which searches and sends, can be left out."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape

import orjson
from aiohttp import web

from gguf_embed.server.context import Dialect, ServerContext
from gguf_embed.server.docs.error_table import error_table
from gguf_embed.server.docs.openapi import describe
from gguf_embed.server.docs.page.page import Page, join_scripts, make_page, read_part
from gguf_embed.server.docs.schema_text import Field, Json, fields_of, name_of, type_words

DOCS_SCRIPTS = (
    *("math.js", "wording.js", "api.js", "clipboard.js", "theme.js"),
    *("docs_search.js", "docs_reply.js", "docs_form.js", "docs_send.js", "docs.js"),
)
"""Joined in this order into the page's script."""

_MAX_UNFOLDED = 5
"""Fields of a request whose table is always open."""

_SCHEMA_WORDS = re.compile(r"\b[A-Z]\w+")
_ANY_URL = "http://[host]"  # with brackets, so that it is quoted for the shell as an IPv6 address must be
_PLAIN_URL = re.compile(r"https?://[\w.:\[\]-]+", re.ASCII)  # browsers send no others, so others are not shown


@dataclass(frozen=True, slots=True)
class Entry:
    """One section: routes with the same requests and replies."""

    group: str
    routes: tuple[tuple[str, str], ...]  # method and path
    operation: Json  # the first route's


async def docs(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /docs`. It needs no key, because everything on it is public."""
    made = load_docs(context.dialects, context.options.version, key_needed=bool(context.options.api_keys))
    url = f"{request.scheme}://{request.host}"
    if not _PLAIN_URL.fullmatch(url):
        return made.response()
    url += context.options.api_prefix
    return Page(made.body.replace(_ANY_URL.encode(), url.encode()), made.headers).response()


@functools.lru_cache(maxsize=2)  # with a key and without
def load_docs(dialects: tuple[Dialect, ...], version: str, *, key_needed: bool) -> Page:
    """Build the page, with `_ANY_URL` in its examples. Cached, because it takes milliseconds and needs no key."""
    html = render(describe(dialects, version, key_needed=key_needed), _ANY_URL)
    return make_page(html, style=read_part("page.css") + read_part("docs.css"), script=join_scripts(DOCS_SCRIPTS))


def render(description: Json, url: str) -> str:
    """The page, without its style. `url` is the server in the examples; it is escaped."""
    schemas = description["components"]["schemas"]
    entries = list(entries_of(description["paths"]))
    key_needed = any(operation["security"] for path in description["paths"].values() for operation in path.values())
    parts = [_introduction(description, key_needed)]
    group = ""
    for entry in entries:
        if entry.group != group:
            group = entry.group
            parts.append(f'<h2 class="group">{escape(group)}</h2>')
        parts.append(_section(entry, schemas, url))
    parts += ['<h2 class="group">Errors</h2>', error_table()]
    parts.append('<h2 class="group">Schemas</h2>')
    parts += [_schema_section(name, schemas) for name in sorted(schemas)]
    template = read_part("docs.html").replace("@VERSION@", escape(description["info"]["version"]))
    template = template.replace("@CONTENTS@", _contents(entries))
    return template.replace("@CONTENT@", "\n".join(parts).encode("utf-8", "replace").decode())


def entries_of(paths: Mapping[str, Json]) -> Iterator[Entry]:
    """The operations, group by group. Operations with the same requests and replies share an entry."""
    found: dict[bytes, Entry] = {}
    for path, operations in paths.items():
        for method, operation in operations.items():
            routes: tuple[tuple[str, str], ...] = ((method.upper(), path),)
            same = (operation["tags"], *(operation.get(part) for part in ("description", "requestBody", "responses")))
            unnamed = same[1:3] == (None, None)
            identity = orjson.dumps([same, path, method] if unnamed else same)
            if identity in found:
                routes = (*found[identity].routes, *routes)
                operation = found[identity].operation
            found[identity] = Entry(operation["tags"][0], routes, operation)
    groups = dict.fromkeys(entry.group for entry in found.values())
    for group in groups:
        yield from (entry for entry in found.values() if entry.group == group)


def _introduction(description: Json, key_needed: bool) -> str:
    key = (
        '<span id="key-needed">This server requires an API key: replace <code>YOUR_KEY</code> in the examples with '
        "yours.</span>"
        if key_needed
        else ""
    )
    return (
        f'<section class="card"><p>{_words(description["info"]["description"])} {key}</p>'
        "<p>Bodies are JSON objects. A field that is <code>null</code> counts as absent. Unknown fields are ignored, "
        "slips such as <code>truncat</code> are refused."
        "</p>"
        "</section>"
    )


def _contents(entries: Iterable[Entry]) -> str:
    groups: dict[str, list[str]] = {}
    for entry in entries:
        lines = (
            f'<li><a href="#{_anchor(entry)}"><span class="method">{method}</span>{escape(path)}</a></li>'
            for method, path in entry.routes
        )
        groups.setdefault(entry.group, []).extend(lines)
    groups["Errors"] = ['<li><a href="#errors">Kinds of errors</a></li>']
    blocks = (
        f'<div><p>{escape(group)}</p><ul aria-label="{escape(group)}">{"".join(lines)}</ul></div>'
        for group, lines in groups.items()
    )
    return f'<nav class="contents" id="contents" aria-label="Routes">{"".join(blocks)}</nav>'


def _section(entry: Entry, schemas: Mapping[str, Json], url: str) -> str:
    operation = entry.operation
    heads = "".join(f'<h3><span class="method">{m}</span><code>{escape(path)}</code></h3>' for m, path in entry.routes)
    parts = [heads, f"<p>{_words(operation.get('description') or _sentence(operation['summary']))}</p>"]
    parts.append(_table("Parameters", [_row(field, schemas) for field in _parameters(operation)]))
    request = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if request:
        parts.append(_request_table(request["schema"], schemas))
        examples = request.get("examples", {}).values()
        parts += [_example(entry, example, url) for example in examples]
    parts.append('<div class="try"></div>')  # filled by the script
    for kind, content in operation["responses"].get("200", {}).get("content", {}).items():
        table = _schema_table("", content["schema"], schemas)
        parts.append(f'<details class="reply"><summary>Reply, {escape(kind)}</summary>{table}</details>')
    errors = [f"{status} {reply['description']}" for status, reply in operation["responses"].items() if status != "200"]
    if errors:
        listed = ", ".join(f'<span class="error">{escape(error)}</span>' for error in errors)
        parts.append(f'<p class="soft">Errors: {listed}.</p>')
    return f'<section class="card" id="{_anchor(entry)}">{"".join(parts)}</section>'


def _request_table(schema: Json, schemas: Mapping[str, Json]) -> str:
    """Long ones are folded, under the names of their fields."""
    names = [field.name for field in fields_of(_named(schema, schemas), schemas)]
    if len(names) <= _MAX_UNFOLDED:
        return _schema_table("Request", schema, schemas)
    listed = ", ".join(f"<code>{escape(name)}</code>" for name in names)
    summary = f'<summary>Request, {len(names)} fields: <span class="soft">{listed}</span></summary>'
    return f"<details>{summary}{_schema_table('', schema, schemas)}</details>"


def _parameters(operation: Json) -> Iterator[Field]:
    for parameter in operation.get("parameters", []):
        text = parameter.get("description", "")
        yield Field(parameter["name"], parameter["schema"], text, parameter.get("required", False))


def _anchor(entry: Entry) -> str:
    return escape(str(entry.operation["operationId"]))


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _example(entry: Entry, example: Json, url: str) -> str:
    """A command that can be pasted into a shell."""
    method, path = entry.routes[0]
    body = shlex.quote(orjson.dumps(example["value"]).decode())
    verb = "" if method == "POST" else f"-X {method} "
    key = "-H 'Authorization: Bearer YOUR_KEY' " if entry.operation["security"] else ""
    target = shlex.quote(url + path.replace("{model}", "MODEL"))
    line = f"curl {verb}{target} {key}-H 'Content-Type: application/json' -d {body}"
    return f'<h4>{_words(example["summary"])}</h4><div class="code"><pre>{escape(line)}</pre></div>'


def _schema_section(name: str, schemas: Mapping[str, Json]) -> str:
    schema = schemas[name]
    table = _schema_table("", schema, schemas)
    return f'<details class="card schema" id="schema-{escape(name)}"><summary>{escape(name)}</summary>{table}</details>'


def _named(schema: Json, schemas: Mapping[str, Json]) -> Json:
    """What a reference refers to, or the schema itself."""
    return schemas[name] if (name := name_of(schema)) else schema


def _schema_table(title: str, schema: Json, schemas: Mapping[str, Json]) -> str:
    """The fields of an object; for other types, a description in words."""
    named = _named(schema, schemas)
    text = f"<p>{_words(named['description'])}</p>" if "description" in named else ""
    fields = list(fields_of(named, schemas))
    if not fields:
        head = f"<h4>{escape(title)}</h4>" if title else ""
        return f"{head}<p>{_linked(type_words(named), schemas)}.</p>{text}"
    rows = [_row(field, schemas) for field in fields]
    return text + _table(title, rows) if not title else _table(title, rows, text)


def _row(field: Field, schemas: Mapping[str, Json]) -> str:
    note = ' <span class="soft">Required.</span>' if field.required else ""
    return (
        f'<tr><th scope="row"><code>{escape(field.name)}</code></th>'
        f"<td>{_linked(type_words(field.schema), schemas)}</td><td>{_words(field.text)}{note}</td></tr>"
    )


def _table(title: str, rows: list[str], text: str = "") -> str:
    if not rows:
        return ""
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    names = "".join(f'<th scope="col">{name}</th>' for name in ("Field", "Type", "Meaning"))
    head = f"<thead><tr>{names}</tr></thead>"
    return f'<table class="fields">{caption}{head}<tbody>{"".join(rows)}</tbody></table>{text}'


def _linked(words: str, schemas: Mapping[str, Json]) -> str:
    """Text in which the names of schemas are links."""

    def link(found: re.Match[str]) -> str:
        return f'<a href="#schema-{found[0]}">{found[0]}</a>' if found[0] in schemas else found[0]

    return _SCHEMA_WORDS.sub(link, escape(words))


def _words(text: str) -> str:
    """Escaped text, with backticks turned into <code>."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
