"""`GET /openapi.json`: the route table and `openapi_data/*.toml` → an OpenAPI 3.1 description.

The table says which routes there are; the TOML files say in words and JSON Schema what goes in and out. In them
`ref = "Name"` is short for a `$ref` to `[schemas.Name]`. A route without an entry is described by its summary alone.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from typing import Any

import orjson
from aiohttp import web

from gguf_embed.server.context import Dialect, Route, ServerContext
from gguf_embed.server.http.body import json_response

Json = dict[str, Any]

_ERROR_SCHEMAS = {
    Dialect.OPENAI: "OpenAIError",
    Dialect.LLAMA: "LlamaError",
    Dialect.OLLAMA: "OllamaError",
    Dialect.TEI: "TeiError",
    Dialect.COHERE: "CohereError",
}
_KEY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}


@dataclass(frozen=True, slots=True)
class Descriptions:
    """What the TOML files say."""

    routes: Mapping[str, Json]  # by "POST /v1/embeddings"
    schemas: Mapping[str, Json]


async def openapi_json(context: ServerContext, request: web.Request) -> web.StreamResponse:
    """`GET /openapi.json`."""
    return json_response(orjson.dumps(describe_door(context)))


def describe_door(context: ServerContext) -> Json:
    """The description of this server."""
    return describe(
        context.routes, load_descriptions(), context.options.version, key_needed=bool(context.options.api_keys)
    )


@functools.cache
def load_descriptions() -> Descriptions:
    """Read the TOML files, once per process."""
    routes: dict[str, Json] = {}
    schemas: dict[str, Json] = {}
    for file in sorted(files("gguf_embed.server.docs").joinpath("openapi_data").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        data = expand(tomllib.loads(file.read_text("utf-8")))
        schemas |= data.get("schemas", {})
        routes |= {name: entry for entry in data.get("route", []) for name in entry["of"]}
    return Descriptions(routes, schemas)


def expand(value: Any) -> Any:
    """Write out at every depth what TOML says shortly: `ref = "Name"`, and null in an enum (TOML has no null)."""
    if isinstance(value, list):
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
    """ "GET /v1/models/{model}": aiohttp's `{model:.+}` without its pattern."""
    return f"{route.method} {shown_path(route)}"


def shown_path(route: Route) -> str:
    return re.sub(r"{(\w+):[^}]*}", r"{\1}", route.path)


def describe(routes: Sequence[Route], known: Descriptions, version: str, *, key_needed: bool) -> Json:
    """The OpenAPI document. `key_needed`: this server was started with API keys."""
    paths: Json = {}
    for route in routes:
        entry = known.routes.get(route_name(route), {})
        paths.setdefault(shown_path(route), {})[route.method.lower()] = _operation(route, entry, key_needed)
    used = [operation["tags"][0] for path in paths.values() for operation in path.values()]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "gguf-embed",
            "version": version,
            "description": "Vectors, scores and tokens from GGUF models, in the dialects that clients speak.",
        },
        "servers": [{"url": "."}],
        "tags": [{"name": name} for name in dict.fromkeys(used)],
        "paths": paths,
        "components": {"schemas": dict(known.schemas), "securitySchemes": _KEY_SCHEMES},
    }


def _operation(route: Route, entry: Json, key_needed: bool) -> Json:
    operation: Json = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{shown_path(route)}").strip("_"),
        "tags": [entry.get("group", "Other")],
        "summary": route.summary,
        "responses": {"200": _reply(entry)} if entry.get("succeeds", True) else {},
        "security": [{name: []} for name in _KEY_SCHEMES] if route.auth_required and key_needed else [],
    }
    if "text" in entry:
        operation["description"] = " ".join(entry["text"].split())
    parameters = [_path_parameter(name) for name in re.findall(r"{(\w+)}", shown_path(route))]
    parameters += entry.get("parameters", [])
    if parameters:
        operation["parameters"] = parameters
    if "request" in entry:
        operation["requestBody"] = _request_body(entry)
    statuses = {*entry.get("errors", []), *([401] if route.auth_required else [])}
    schema = {"$ref": f"#/components/schemas/{_ERROR_SCHEMAS[route.dialect]}"}
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
    return {"required": True, "content": {"application/json": content}}


def _reply(entry: Json) -> Json:
    reply: Json = {"description": "OK"}
    if "reply" in entry:
        schema = {"$ref": f"#/components/schemas/{entry['reply']}"}
        reply["content"] = {entry.get("reply_type", "application/json"): {"schema": schema}}
    elif "reply_type" in entry:
        reply["content"] = {entry["reply_type"]: {"schema": {"type": "string"}}}
    return reply
