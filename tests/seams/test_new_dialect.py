"""A new dialect is a `Dialect`: routes, the shape of its errors, and its words for the ways out of them.

Nothing else knows of it, and it is written here in under 100 lines.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gguf_embed.errors import EmbedError, InputTooLong, WayOut
from gguf_embed.metrics import Metrics
from gguf_embed.server.app import DIALECTS, build_app
from gguf_embed.server.context import Dialect, ErrorFormat, Route, ServerContext, ServerOptions
from gguf_embed.server.fields.inputs import parse_inputs
from gguf_embed.server.fields.outputs import check_output, rows_of
from gguf_embed.server.http.body import json_response, read_json_object
from gguf_embed.server.http.errors import WORDS
from gguf_embed.types import DENSE, EmbedRequest, ModelInfo, Pooling
from tests.server.fake_service import FakeService, failing, vector_of, with_pooling


async def encode(context: ServerContext, request: web.Request) -> web.Response:
    """`POST /encode`: `{"sentences": […]}` → `{"vectors": […]}`."""
    body = await read_json_object(context, request)
    inputs = parse_inputs(body.get("sentences"), "sentences", context.options.max_inputs)
    result = await context.embed(EmbedRequest(inputs), check)
    return json_response(json.dumps({"vectors": rows_of(result.output).matrix.tolist()}).encode())


def check(info: ModelInfo) -> None:
    check_output(info.output, (DENSE,), on_request=False)


def shape(error: EmbedError, message: str, status: int) -> tuple[int, object]:
    return 418 if status == 400 else status, {"problem": message}


TOY = Dialect(
    name="Toy",
    routes=(Route("POST", "/toy/encode", encode, "vectors, the toy's shape"),),
    errors=ErrorFormat(shape, {**WORDS, WayOut.TRUNCATE: "say please"}),
    error_schema="LlamaError",
    openapi=(),
    path_prefix="/toy/",
)


def ask(method: str, path: str, body: object = None, service: FakeService | None = None) -> tuple[int, object]:
    async def scenario() -> tuple[int, object]:
        app = build_app(service or FakeService(), ServerOptions("1.2.3", api_keys=()), Metrics(), (*DIALECTS, TOY))
        async with TestClient(TestServer(app)) as client:
            reply = await client.request(method, path, json=body)
            return reply.status, json.loads(await reply.read())

    return asyncio.run(scenario())


def test_its_route_answers_in_its_shape():
    status, reply = ask("POST", "/toy/encode", {"sentences": ["a", "b"]})
    assert status == 200
    assert reply["vectors"][1] == pytest.approx(vector_of("b").tolist())


@pytest.mark.parametrize(
    ("body", "service", "status", "words"),
    [
        ({"sentences": []}, None, 418, "sentences"),
        ({"sentences": ["a"]}, failing(InputTooLong(0, 20, 16)), 418, "20 tokens, the limit per text is 16): shorten"),
        ({"sentences": ["a"]}, failing(InputTooLong(0, 20, 16)), 418, "say please"),
        ({"sentences": ["a"]}, with_pooling(Pooling.NONE), 501, "pooling none"),
    ],
)
def test_its_errors_have_its_shape_status_and_words(body, service, status, words):
    found, reply = ask("POST", "/toy/encode", body, service)
    assert (found, list(reply)) == (status, ["problem"])
    assert words in reply["problem"]


def test_unknown_paths_below_its_prefix_are_its_own():
    assert [list(ask("GET", path)[1]) for path in ("/toy/nothing", "/toy/encode", "/nothing")] == [
        ["problem"],
        ["problem"],
        ["error"],
    ]


def test_it_is_described_to_programs():
    assert ask("GET", "/openapi.json")[1]["paths"]["/toy/encode"]["post"]["summary"] == "vectors, the toy's shape"


def test_this_file_is_short():
    assert len(Path(__file__).read_text("utf-8").splitlines()) < 100
