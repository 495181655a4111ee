"""`GET /openapi.json`: an OpenAPI 3.1 description, made from the dialects' routes, request fields and TOML files.

The route table lists the routes; `Dialect.bodies` has the fields of requests, which the parsers read, too. The TOML
files describe the routes in words, and the replies in JSON Schema. In them, `ref = "Name"` is short for a `$ref` to
`[schemas.Name]`. A route without an entry only has its summary.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

from gguf_embed.server.context import Dialect, Route, ServerContext
from gguf_embed.server.fields import (
    head_outputs,
    image_schemas,
    inputs,
    muvera,
    option_fields,
    output_types,
    rerank_fields,
)
from gguf_embed.server.http.body import json_response

Json = dict[str, Any]

CONFIRM = "x-confirm"
"""Of an operation that deletes, stops or downloads something: what it does, for /docs to ask before sending it."""

_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


@dataclass(frozen=True, slots=True)
class Descriptions:
    """What the TOML files and the declared fields say."""

    routes: Mapping[str, Json]  # by "POST /v1/embeddings"
    schemas: Mapping[str, Json]


async def openapi_json(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /openapi.json`."""
    return json_response(written_description(context.dialects, context.options.version, bool(context.options.api_keys)))


@functools.lru_cache(maxsize=2)  # with a key and without
def written_description(dialects: tuple[Dialect, ...], version: str, key_needed: bool) -> bytes:
    """The description of a server with these dialects, as JSON."""
    return orjson.dumps(describe(dialects, version, key_needed=key_needed))


@functools.cache
def load_descriptions(dialects: tuple[Dialect, ...]) -> Descriptions:
    """Read the TOML files and the declarations of fields, once per process."""
    routes: dict[str, Json] = {}
    schemas: dict[str, Json] = {}
    shared = files(__package__) / "shared.toml"
    for module in (inputs, image_schemas, output_types, option_fields, head_outputs, muvera, rerank_fields):
        schemas |= {name: expand(schema) for name, schema in module.SCHEMAS.items()}
    for dialect in dialects:
        for body in dialect.bodies:
            schemas |= {part.name: expand(part.schema()) for part in (*body.groups, body)}
    for file in (shared, *(file for dialect in dialects for file in dialect.openapi)):
        data = expand(tomllib.loads(file.read_text("utf-8")))
        schemas |= data.get("schemas", {})
        routes |= {name: entry for entry in data.get("route", []) for name in entry["of"]}
    return Descriptions(routes, schemas)


def expand(value: Any) -> Any:
    """Expand the short forms at every depth: `ref = "Name"`, and null in an enum (TOML has no null)."""
    if isinstance(value, list | tuple):
        return [expand(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    written = {key: expand(entry) for key, entry in value.items()}
    short = written.get("ref")
    if isinstance(short, str):
        written = {"$ref": f"#/components/schemas/{short}"} | {key: written[key] for key in written if key != "ref"}
    if "enum" in written and "null" in written.get("type", ()):
        written["enum"] = [*written["enum"], None]
    return written


def route_name(route: Route) -> str:
    """ "GET /v1/models/{model}": aiohttp's `{model:…}` without its pattern."""
    return f"{route.method} {shown_path(route)}"


def shown_path(route: Route) -> str:
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)


def describe(dialects: tuple[Dialect, ...], version: str, *, key_needed: bool) -> Json:
    """The OpenAPI document. `key_needed`: this server was started with API keys."""
    known = load_descriptions(dialects)
    paths: Json = {}
    for dialect in dialects:
        for route in dialect.routes:
            entry = known.routes.get(route_name(route), {})
            operation = _operation(route, entry, key_needed, dialect.error_schema)
            paths.setdefault(shown_path(route), {})[route.method.lower()] = operation
    used = [operation["tags"][0] for path in paths.values() for operation in path.values()]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gguf-embed",
            "version": version,
            "description": "Vectors, scores and tokens from GGUF models, over the APIs that clients already use.",
        },
        "servers": [{"url": "."}],
        "tags": [{"name": name} for name in dict.fromkeys(used)],
        "paths": paths,
        "components": {"schemas": dict(known.schemas), "securitySchemes": _KEY_SCHEMES},
    }


def _operation(route: Route, entry: Json, key_needed: bool, error_schema: str) -> Json:
    operation: Json = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{shown_path(route)}").strip("_"),
        "tags": [entry.get("group", "Other")],
        "summary": route.summary,
        "responses": {"200": _reply(entry)} if entry.get("succeeds", True) else {},
        "security": [{name: []} for name in _KEY_SCHEMES] if route.auth_required and key_needed else [],
    }
    if "text" in entry:
        operation["description"] = " ".join(entry["text"].split())
    if "confirm" in entry:
        operation[CONFIRM] = entry["confirm"]
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", shown_path(route))]
    parameters += entry.get("parameters", [])
    if parameters:
        operation["parameters"] = parameters
    if "request" in entry:
        operation["requestBody"] = _request_body(entry)
    statuses = {*entry.get("errors", []), *([401] if route.auth_required else [])}
    schema = {"$ref": f"#/components/schemas/{entry.get('error', error_schema)}"}
    for status in sorted(statuses):
        content = {"application/json": {"schema": schema}}
        operation["responses"][str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    return operation


def _path_parameter(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _request_body(entry: Json) -> Json:
    examples = {
        str(number): {"summary": example["text"], "value": json.loads(example["body"])}
        for number, example in enumerate(entry.get("example", []), 1)
        if example.get("status", 200) == 200
    }
    content: Json = {"schema": {"$ref": f"#/components/schemas/{entry['request']}"}}
    if examples:
        content["examples"] = examples
    return {"required": True, "content": {entry.get("request_type", "application/json"): content}}


def _reply(entry: Json) -> Json:
    reply: Json = {"description": "OK"}
    if "reply" in entry:
        schema = {"$ref": f"#/components/schemas/{entry['reply']}"}
        types = entry.get("reply_types", ["application/json"])
        reply["content"] = {media_type: {"schema": schema} for media_type in types}
    elif "reply_type" in entry:
        reply["content"] = {entry["reply_type"]: {"schema": {"type": "string"}}}
    return reply
