"""Cohere's embedding endpoints over a real connection."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import Overloaded
from gguf_embed.server.http.body import TRUNCATED_HEADER
from gguf_embed.types import Pooling, PromptChoice
from gguf_embed.vectors import quantize
from tests.server.fake_service import MODEL, FakeService, failing, serving, vector_of, with_pooling

PATHS = ("/v2/embed", "/v1/embed")
TEXTS = ["ab", "c"]
VECTORS = np.stack([vector_of(text) for text in TEXTS])


def post(path, body, service=None, **options):
    """The reply to one POST."""

    async def scenario():
        async with serving(service, **options) as running:
            return await running.post(path, body)

    return asyncio.run(scenario())


@pytest.mark.parametrize("path", PATHS)
def test_vectors_come_by_type(path):
    reply = post(path, {"texts": TEXTS, "embedding_types": ["float", "int8", "ubinary", "base64"]})
    assert list(reply.json) == ["id", "response_type", "embeddings", "texts", "meta"]
    assert reply.json["response_type"] == "embeddings_by_type"
    assert reply.json["texts"] == TEXTS
    found = reply.json["embeddings"]
    assert list(found) == ["float", "int8", "ubinary", "base64"]
    assert np.array_equal(np.array(found["float"], np.float32), VECTORS)
    assert found["int8"] == quantize(VECTORS, "int8").tolist()
    assert found["ubinary"] == quantize(VECTORS, "ubinary").tolist()
    assert [base64.b64decode(row) for row in found["base64"]] == [row.astype("<f4").tobytes() for row in VECTORS]
    assert reply.json["meta"] == {"api_version": {"version": path[2]}, "billed_units": {"input_tokens": 7}}


def test_without_types_version_2_returns_floats_by_type_and_version_1_plain_ones():
    second, first = (post(path, {"texts": TEXTS}).json for path in PATHS)
    assert np.array_equal(np.array(second["embeddings"]["float"], np.float32), VECTORS)
    assert first["response_type"] == "embeddings_floats"
    assert np.array_equal(np.array(first["embeddings"], np.float32), VECTORS)


def test_inputs_with_one_text_each_are_texts():
    inputs = [{"content": [{"type": "text", "text": text}]} for text in TEXTS]
    reply = post("/v2/embed", {"inputs": inputs})
    assert reply.json["texts"] == TEXTS
    assert np.array_equal(np.array(reply.json["embeddings"]["float"], np.float32), VECTORS)


def test_the_service_gets_the_fields():
    service = FakeService(replace(MODEL, prompts={"search_query": "q: "}))
    body = {"texts": TEXTS, "model": "tiny", "input_type": "search_query", "output_dimension": 4, "truncate": "NONE"}
    assert post("/v2/embed", body | {"max_tokens": 16}, service).status == 200
    (request,) = service.requests
    assert (request.inputs, request.model, request.embd_normalize) == (tuple(TEXTS), "tiny", 2)
    assert (request.dimensions, request.truncate) == (4, False)
    assert request.prompt == PromptChoice(name="search_query", param="input_type")


@pytest.mark.parametrize("truncate", [{}, {"truncate": "END"}])
def test_a_long_text_is_cut_and_the_reply_reports_it(truncate):
    reply = post("/v2/embed", {"texts": ["a", "a" * 20], **truncate})
    assert reply.headers[TRUNCATED_HEADER] == "1"
    assert reply.json["truncated"] == [{"index": 1, "n_tokens": 22, "n_kept": 16, "n_dropped": 6}]
    assert reply.json["meta"]["warnings"] == ["text 1 was cut: 16 of 22 tokens were read"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, '"texts" must be provided: an array of strings'),
        ({"texts": ["a"], "inputs": [{"content": [{"type": "text", "text": "b"}]}]}, 400, '"texts" and "inputs"'),
        ({"texts": ["a"], "on_error": "skip"}, 400, '"on_error"'),
        ({"texts": "ab"}, 400, '"texts" must be an array'),
        ({"texts": []}, 400, "must not be empty"),
        ({"texts": ["a"] * 5}, 400, "the limit per request is 4"),
        ({"texts": ["a", 7]}, 400, '"texts[1]" must be a string'),
        ({"texts": [7, 8]}, 400, '"texts[0]" must be a string'),
        ({"texts": ["a" * 20], "truncate": "NONE"}, 400, 'send "truncate": "END"'),
        (
            {"texts": ["a"], "truncate": "middle"},
            400,
            '"truncate" must be true, false, "NONE", "END" or "START", found',
        ),
        ({"texts": ["a"], "normalize": False}, 400, '"normalize" must be true here'),
        ({"texts": ["a"], "pooling": "cls"}, 400, '"pooling"'),
        ({"texts": ["a"], "embedding_types": []}, 400, "must not be empty"),
        ({"texts": ["a"], "embedding_types": ["int4"]}, 400, "int4"),
        ({"texts": ["a"], "output_dimension": 9}, 400, "dimensions 9"),
        ({"texts": ["a"], "output_dimension": 0}, 400, "output_dimension"),
        ({"texts": ["a"], "max_tokens": 0}, 400, "max_tokens"),
        ({"images": ["data:image/png;base64,AA"]}, 501, "models that read images: clip-vit-base-patch32"),
        ({"images": [7]}, 400, '"images[0]".image must be a string'),
        ({"images": 7}, 400, '"images" must be an array of strings'),
        ({"inputs": [{"content": [{"type": "image_url"}]}]}, 400, '"inputs[0]".content[0] must be'),
        ({"inputs": [{"content": [{"type": "audio_url"}]}]}, 501, '"inputs[0]".content[0] is sound'),
        (
            {"inputs": [{"content": [{"type": "text", "text": "a"}] * 2}]},
            400,
            "found an array of 2",
        ),
        ({"inputs": [{"content": []}]}, 400, "must be one part"),
        ({"inputs": [7]}, 400, '"inputs[0]" must be an object'),
        ({"inputs": []}, 400, "must not be empty"),
        (b"{", 400, "JSON"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_wrong_input_is_refused_in_coheres_shape(path, body, status, says):
    reply = post(path, body, max_inputs=4)
    assert (reply.status, list(reply.json)) == (status, ["message"])
    assert says in reply.json["message"]


def test_a_model_of_token_rows_is_a_501():
    reply = post("/v2/embed", {"texts": TEXTS}, with_pooling(Pooling.NONE))
    assert (reply.status, "pooling none" in reply.json["message"]) == (501, True)


def test_an_overload_has_a_retry_after():
    reply = post("/v2/embed", {"texts": TEXTS}, failing(Overloaded("full", retry_after_s=3)))
    assert (reply.status, reply.headers["Retry-After"], reply.json) == (429, "3", {"message": "full: retry later"})
