"""Number types: parsing the requested ones, and replies over a real connection."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.output_types import OutputType, check_output_types, parse_dimensions, parse_output_types
from gguf_embed.types import OutputSpec, Pooling
from gguf_embed.vectors import quantize
from tests.server.fake_service import MODEL, FakeService, serving, vector_of, with_pooling

FLOAT, BASE64 = OutputType("float", "float", False), OutputType("base64", "float", True)
INT8, BINARY = OutputType("int8", "int8", False), OutputType("binary", "binary", False)
TEXTS = ["ab", "c"]
VECTORS = np.stack([vector_of(text) for text in TEXTS])
SMALL = ("int8", "uint8", "binary", "ubinary")


def post(path, body, service=None, **kwargs):
    """The reply to one POST."""

    async def scenario():
        async with serving(service) as running:
            return await running.post(path, body, **kwargs)

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ()),
        ({"output_dtype": None, "encoding_format": "base64"}, ()),
        ({"output_dtype": "int8"}, (INT8,)),
        ({"embedding_type": "INT8"}, (INT8,)),
        ({"embed_dtype": "float32"}, (FLOAT,)),
        ({"embedding_types": ["int8", "float", "int8"]}, (INT8, FLOAT)),
        ({"embedding_types": ["base64", "binary"]}, (BASE64, BINARY)),
        ({"output_dtype": ["binary"], "embedding_types": "binary"}, (BINARY,)),
        ({"output_dtype": "int8", "encoding_format": "float"}, (INT8,)),
        ({"output_dtype": "int8", "encoding_format": "base64"}, (replace(INT8, base64=True),)),
        ({"output_dtype": "float", "encoding_format": "base64"}, (replace(FLOAT, base64=True),)),
        ({"embedding_types": ["base64", "int8"], "encoding_format": "base64"}, (BASE64, replace(INT8, base64=True))),
    ],
)
def test_any_of_the_names_asks_for_types(body, expected):
    assert parse_output_types(body) == expected


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"output_dtype": "int4"}, "output_dtype", 'found the string "int4"'),
        ({"output_dtype": ""}, "output_dtype", '"ubinary"'),
        ({"output_dtype": 8}, "output_dtype", "found the number 8"),
        ({"output_dtype": {"int8": True}}, "output_dtype", "found an object"),
        ({"embedding_types": []}, "embedding_types", "must not be empty"),
        ({"embedding_types": ["int8", None]}, "embedding_types", "found null"),
        ({"embedding_types": [["int8"]]}, "embedding_types", "found an array of 1"),
        ({"output_dtype": "int8", "embedding_types": ["int8", "float"]}, "embedding_types", '"output_dtype"'),
        ({"output_dtype": "int8", "encoding_format": "int8"}, "encoding_format", "base64"),
    ],
)
def test_other_words_are_refused_by_the_name_of_their_field(body, param, says):
    with pytest.raises(InvalidRequest) as caught:
        parse_output_types(body)
    assert caught.value.param == param
    assert says in caught.value.message


@pytest.mark.parametrize(
    ("body", "expected"),
    [({}, None), ({"dimensions": 4}, 4), ({"output_dimension": 4}, 4), ({"dimensions": 4, "output_dimension": 4}, 4)],
)
def test_dimensions_have_two_names(body, expected):
    assert parse_dimensions(body) == expected


@pytest.mark.parametrize(
    "body", [{"dimensions": 4, "output_dimension": 3}, {"output_dimension": 0}, {"output_dimension": "4"}]
)
def test_wrong_dimensions_are_refused(body):
    with pytest.raises(InvalidRequest) as caught:
        parse_dimensions(body)
    assert caught.value.param == "output_dimension"


@pytest.mark.parametrize(
    ("output", "pooling", "embd_normalize", "fits"),
    [
        (INT8, Pooling.MEAN, 2, True),
        (INT8, Pooling.CLS, 1, True),
        (INT8, Pooling.LAST, 3, True),
        (INT8, Pooling.MEAN, -1, False),
        (INT8, Pooling.MEAN, 0, False),
        (INT8, Pooling.NONE, 2, False),
        (INT8, Pooling.RANK, 2, False),
        (BINARY, Pooling.MEAN, -1, True),
        (BINARY, Pooling.NONE, 2, True),
        (BINARY, Pooling.RANK, 2, False),
        (FLOAT, Pooling.NONE, -1, True),
        (BASE64, Pooling.RANK, -1, True),
    ],
)
def test_int8_needs_numbers_up_to_one(output, pooling, embd_normalize, fits):
    if fits:
        check_output_types((FLOAT, output), OutputSpec.of(pooling), embd_normalize)
    else:
        with pytest.raises(InvalidRequest, match="ask for float"):
            check_output_types((FLOAT, output), OutputSpec.of(pooling), embd_normalize)


@pytest.mark.parametrize("dtype", SMALL)
def test_openais_shape_in_integers_and_in_their_bytes(dtype):
    expected = quantize(VECTORS, dtype)
    reply = post("/v1/embeddings", {"input": TEXTS, "output_dtype": dtype})
    assert [item["embedding"] for item in reply.json["data"]] == expected.tolist()
    reply = post("/v1/embeddings", {"input": TEXTS, "output_dtype": dtype, "encoding_format": "base64"})
    assert [base64.b64decode(item["embedding"]) for item in reply.json["data"]] == [row.tobytes() for row in expected]


def test_several_types_are_an_object_with_a_key_each():
    reply = post("/v1/embeddings", {"input": TEXTS, "embedding_types": ["float", "base64", "ubinary"]})
    for item, vector in zip(reply.json["data"], VECTORS, strict=True):
        assert list(item["embedding"]) == ["float", "base64", "ubinary"]
        assert np.array_equal(np.array(item["embedding"]["float"], np.float32), vector)
        assert base64.b64decode(item["embedding"]["base64"]) == vector.astype("<f4").tobytes()
        assert item["embedding"]["ubinary"] == quantize(vector[None], "ubinary")[0].tolist()


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_llama_cpps_shape_nests_the_rows_of_every_type(path):
    reply = post(path, {"input": TEXTS, "output_dtype": "int8"})
    assert [item["embedding"] for item in reply.json] == quantize(VECTORS, "int8")[:, None].tolist()
    reply = post(path, {"input": TEXTS, "output_dtype": ["int8", "binary"]})
    assert [item["embedding"]["binary"] for item in reply.json] == quantize(VECTORS, "binary")[:, None].tolist()


def test_token_rows_come_in_bits():
    rows = np.stack([vector_of("ab", row) for row in range(4)])
    reply = post("/embedding", {"content": "ab", "pooling": "none", "output_dtype": "ubinary"})
    assert reply.json[0]["embedding"] == quantize(rows, "ubinary").tolist()


def test_dimensions_are_cut_before_the_numbers_are_made():
    reply = post("/v1/embeddings", {"input": TEXTS, "output_dtype": "ubinary", "output_dimension": 5})
    assert [item["embedding"] for item in reply.json["data"]] == quantize(VECTORS[:, :5], "ubinary").tolist()


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": "a", "output_dtype": "fp8"}, "output_dtype"),
        ("/v1/embeddings", {"input": "a", "embedding_types": []}, "embedding_types"),
        ("/v1/embeddings", {"input": "a", "output_dimension": 9, "output_dtype": "binary"}, "dimensions"),
    ],
)
def test_wrong_types_are_a_400_in_openais_shape(path, body, param):
    reply = post(path, body)
    assert (reply.status, reply.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("body", "pooling"),
    [
        ({"output_dtype": "int8", "pooling": "none"}, Pooling.MEAN),
        ({"output_dtype": "uint8"}, Pooling.NONE),
        ({"output_dtype": "int8"}, Pooling.RANK),
        ({"output_dtype": "int8", "embd_normalize": -1}, Pooling.MEAN),
        ({"embedding_types": ["float", "uint8"], "embd_normalize": 0}, Pooling.MEAN),
    ],
)
def test_types_that_would_clip_the_vectors_are_a_400_before_computing(body, pooling):
    service = with_pooling(pooling)
    reply = post("/embedding", {"content": "a", **body}, service)
    assert reply.status == 400
    assert "ask for float" in reply.json["error"]["message"]
    assert service.requests == []


def test_the_servers_own_normalization_counts_too():
    reply = post("/embedding", {"content": "a", "output_dtype": "int8"}, FakeService(replace(MODEL, embd_normalize=-1)))
    assert reply.status == 400
    assert '"embd_normalize": 2' in reply.json["error"]["message"]


def test_bytes_that_openais_client_would_read_as_float32_are_refused():
    headers = {"X-Stainless-Lang": "python"}
    body = {"input": "a", "output_dtype": "int8", "encoding_format": "base64"}
    reply = post("/v1/embeddings", body, headers=headers)
    assert (reply.status, reply.json["error"]["param"]) == (400, "encoding_format")
    assert 'encoding_format="float"' in reply.json["error"]["message"]
    assert post("/v1/embeddings", body | {"encoding_format": "float"}, headers=headers).status == 200
    assert post("/v1/embeddings", body | {"output_dtype": "float"}, headers=headers).status == 200


def test_requesting_the_default_type_changes_nothing():
    plain, requested = (post("/v1/embeddings", {"input": TEXTS, **more}) for more in ({}, {"output_dtype": "float"}))
    assert plain.raw == requested.raw
