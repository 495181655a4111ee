"""The OpenAPI description and the page made of it say what the routes do."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gguf_embed.server.app import DIALECTS
from gguf_embed.server.context import Route
from gguf_embed.server.docs.error_table import error_table
from gguf_embed.server.docs.openapi import CONFIRM, describe, expand, load_descriptions, route_name
from gguf_embed.server.docs.schema_text import fields_of, type_words
from gguf_embed.server.http.errors import STATUSES
from tests.batch.http_batches import create_batch, finished, upload
from tests.server.fake_service import serving
from tests.server.routes import ROUTES
from tests.server.schemas import closed, faults, keywords

KNOWN = load_descriptions(DIALECTS)
DESCRIPTION = describe(DIALECTS, "1.2.3", key_needed=False)
SCHEMAS = DESCRIPTION["components"]["schemas"]
CLOSED = {name: closed(schema) for name, schema in SCHEMAS.items()}
"""For replies: a field that is not described is a fault."""
OPERATIONS = [(path, method, op) for path, ops in DESCRIPTION["paths"].items() for method, op in ops.items()]
WITHOUT_REPLY = {"POST /api/copy", "DELETE /api/delete"}
"""They answer with an empty body, as Ollama does."""


def examples() -> Iterator[Any]:
    for name, entry in KNOWN.routes.items():
        for example in entry.get("example", []):
            yield pytest.param(name, entry, example, id=f"{name}: {example['text']}")


def references(value: object) -> Iterator[str]:
    """All names of schemas in a value, at every depth."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"].rpartition("/")[2]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_every_route_has_an_entry_and_no_entry_is_without_a_route():
    assert set(KNOWN.routes) == {route_name(route) for route in ROUTES}


def has_body(route: Route, entry: Any) -> bool:
    return route.method != "GET" and route.path != "/v1/files/{file_id}" and entry.get("has_body", True)


@pytest.mark.parametrize("route", ROUTES, ids=route_name)
def test_an_entry_describes_the_request_and_the_reply(route: Route):
    entry = KNOWN.routes[route_name(route)]
    succeeds = entry.get("succeeds", True)
    assert ("request" in entry) == (succeeds and has_body(route, entry))
    assert ("reply" in entry or "reply_type" in entry) == (succeeds and route_name(route) not in WITHOUT_REPLY)
    assert succeeds or entry["errors"] == [501]


def test_every_schema_that_is_named_exists_and_every_one_is_used():
    assert set(references(DESCRIPTION)) == set(SCHEMAS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_has_no_keyword_that_is_not_checked(name):
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert set(keywords(SCHEMAS[name])) <= {*Draft202012Validator.VALIDATORS, "description"}


def test_the_check_of_schemas_is_strict():
    schema = {"type": "object", "properties": {"n": {"$ref": "#/components/schemas/N"}}, "required": ["n"]}
    known = {"N": {"type": "integer", "enum": [0, 1]}}
    assert faults({"n": 1, "m": 2}, schema, known) == []
    wrong = ({}, [], {"n": "1"}, {"n": True}, {"n": 1.0}, {"n": 2})
    assert [value for value in wrong if not faults(value, schema, known)] == []
    assert faults({"n": 1, "m": 2}, closed(schema), known) != []


def test_every_post_that_can_succeed_has_an_example_but_a_download_and_a_form():
    without = {name for name, entry in KNOWN.routes.items() if "request" in entry and not entry.get("example")}
    assert without == {"POST /api/pull", "POST /v1/files"}


def test_names_of_operations_are_unique():
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names) > 40


@pytest.mark.parametrize(("name", "entry", "example"), list(examples()))
def test_an_example_gets_what_is_described(default_server, name, entry, example):
    method, path = name.split()
    expected = example.get("status", 200)
    body = json.loads(example["body"])
    reply = default_server.request(method, path, example["body"].encode())
    assert reply.status == expected, reply.body
    if expected != 200:
        schema = DESCRIPTION["paths"][path][method.lower()]["responses"][str(expected)]["content"]["application/json"]
        assert faults(reply.json(), schema["schema"], SCHEMAS) == []
        return
    assert faults(body, SCHEMAS[entry["request"]], SCHEMAS) == []
    assert faults(reply.json(), CLOSED[entry["reply"]], CLOSED) == []


@pytest.mark.parametrize("name", [name for name in KNOWN.routes if name.startswith("GET ") and "_id}" not in name])
def test_a_get_answers_as_described(tiny_server, name):
    entry = KNOWN.routes[name]
    reply = tiny_server.get(name.removeprefix("GET ").replace("{model}", "encoder"))
    assert reply.status == 200
    assert reply.headers["Content-Type"].split(";")[0] == entry.get("reply_type", "application/json")
    if "reply" in entry:
        assert faults(reply.json(), SCHEMAS[entry["reply"]], SCHEMAS) == []
        described = {key: value for key, value in reply.json().items() if key not in LLAMAS.get(name, ())}
        assert faults(described, CLOSED[entry["reply"]], CLOSED) == []


def test_files_and_batches_are_as_described(tiny_server):
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}
    file_id = upload(tiny_server, [line])
    body = {"input_file_id": file_id, "endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": {"a": "b"}}
    assert faults(body, SCHEMAS["BatchRequest"], SCHEMAS) == []
    begun = tiny_server.post("/v1/batches", body).json()
    over = finished(tiny_server, begun["id"])
    failed = finished(tiny_server, create_batch(tiny_server, upload(tiny_server, [line, line]))["id"])
    assert failed["errors"]["data"]
    for batch in (begun, over, failed):
        assert faults(batch, CLOSED["Batch"], CLOSED) == []
    for path, schema in [
        (f"/v1/batches/{over['id']}", "Batch"),
        (f"/v1/files/{over['output_file_id']}", "File"),
        ("/v1/batches?limit=1", "BatchList"),
        ("/v1/files?limit=2&order=asc", "FileList"),
    ]:
        assert faults(tiny_server.get(path).json(), CLOSED[schema], CLOSED) == []
    content = tiny_server.get(f"/v1/files/{file_id}/content")
    assert content.headers["Content-Type"] == KNOWN.routes["GET /v1/files/{file_id}/content"]["reply_type"]
    deleted = tiny_server.request("DELETE", f"/v1/files/{file_id}").json()
    assert faults(deleted, CLOSED["FileDeleted"], CLOSED) == []


LLAMAS = {
    "GET /props": {
        "build_info",
        "chat_template",
        "default_generation_settings",
        "description",
        "endpoint_metrics",
        "endpoint_props",
        "endpoint_slots",
        "media_marker",
        "modalities",
        "model_ftype",
        "model_path",
    }
}
"""llama-server's keys that mean nothing here, and are therefore not described."""


@pytest.mark.parametrize(
    "route", [route for route in ROUTES if "succeeds" in KNOWN.routes[route_name(route)]], ids=route_name
)
def test_a_command_that_always_fails_fails_in_the_end(tiny_server, route):
    assert tiny_server.post(route.path.replace("{digest}", "sha256:0"), {}).status == 501


def test_keys_are_described_where_the_server_asks_for_them():
    paths = describe(DIALECTS, "1.2.3", key_needed=True)["paths"]
    assert paths["/v1/embeddings"]["post"]["security"] == [{"bearer": []}, {"apiKey": []}]
    assert paths["/health"]["get"]["security"] == []
    assert all(operation["security"] == [] for _, _, operation in OPERATIONS)


def test_short_words_of_the_files_are_written_out():
    assert expand({"a": [{"ref": "Name", "description": "x"}]}) == {
        "a": [{"$ref": "#/components/schemas/Name", "description": "x"}]
    }
    assert expand({"type": ["string", "null"], "enum": ["a"]})["enum"] == ["a", None]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_both_are_open_to_everyone_and_say_nothing_of_the_keys(path):
    async def scenario() -> None:
        async with serving(api_keys=("secret-key",)) as server:
            reply = await server.request("GET", path)
            assert reply.status == 200
            assert b"secret-key" not in reply.raw
            assert (b"Authorization: Bearer YOUR_KEY" in reply.raw) == (path == "/docs")
            assert b"1.2.3" in reply.raw

    asyncio.run(scenario())


def test_the_page_for_people_has_every_route_and_every_field():
    async def scenario() -> str:
        async with serving() as server:
            return (await server.request("GET", "/docs")).raw.decode()

    html = asyncio.run(scenario())
    for path, method, _ in OPERATIONS:
        assert f'<span class="method">{method.upper()}</span><code>{path}</code>' in html
    fields = {name for schema in SCHEMAS.values() for name in schema.get("properties", {})}
    assert len(fields) > 100
    assert [name for name in fields if f"<code>{name}</code>" not in html] == []


def test_the_page_for_people_has_every_kind_of_error_and_what_it_means():
    rows = re.findall(r'<th scope="row"><code>(\w+)</code></th><td>(\d+)</td><td>.*?</td><td>(.*?)</td>', error_table())
    assert {kind: int(status) for kind, status, _ in rows} == STATUSES
    meanings = [meaning for *_, meaning in rows]
    assert all(re.fullmatch(r"[A-Z][^.`]+\.", meaning) for meaning in meanings)
    assert len(set(meanings)) == len(meanings)


def test_what_deletes_or_stops_something_is_to_be_confirmed():
    confirmed = {f"{method.upper()} {path}" for path, method, operation in OPERATIONS if CONFIRM in operation}
    dangerous = {f"{method.upper()} {path}" for path, method, _ in OPERATIONS if method == "delete" or "cancel" in path}
    assert confirmed == {*dangerous, "POST /api/pull"}


def test_every_example_of_the_page_can_be_pasted_alone():
    async def scenario() -> str:
        async with serving() as server:
            return (await server.request("GET", "/docs")).raw.decode()

    page = unescape(asyncio.run(scenario()))
    lines = re.findall(r"<pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    assert len(lines) > 20
    for line in lines:
        command, *words = shlex.split(line)
        assert (command, "$" in line) == ("curl", False)
        assert any(re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w/]*", word) for word in words)
        assert isinstance(json.loads(words[-1]), dict)


def test_every_field_of_the_page_has_a_type():
    assert type_words(SCHEMAS["ExtraFields"]["properties"]["spans"]) == "array of Span or array of arrays of Span"
    fields = [field for schema in SCHEMAS.values() for field in fields_of(schema, SCHEMAS)]
    assert [field.name for field in fields if "anything" in type_words(field.schema)] == []


@pytest.mark.parametrize(
    ("host", "shown"),
    [("a.example:81", "a.example:81"), ("[::1]:8080", "[::1]:8080"), ("<b>x</b>", "[host]"), ("$(ls)'", "[host]")],
)
def test_the_examples_send_to_the_host_that_was_asked_if_it_can_be_one(host, shown):
    async def scenario() -> str:
        async with serving() as server:
            await server.request("GET", "/docs", headers={"Host": "another"})
            return (await server.request("GET", "/docs", headers={"Host": host})).raw.decode()

    html = asyncio.run(scenario())
    assert f"curl &#x27;http://{shown}/v1/embeddings&#x27;" in html
    assert html.count("http://[host]") == (html.count("curl ") if shown == "[host]" else 0)
    assert "another" not in re.findall(r"http://([^/&]+)", html)
