"""What the two dialects write, and what they read, without HTTP."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import InputTooLong, InvalidRequest, ModelFileError, Overloaded
from gguf_embed.server.dialects.llama.dialect import LLAMA
from gguf_embed.server.dialects.llama.embedding import iter_llama_embed, parse_llama_embed
from gguf_embed.server.dialects.openai.dialect import OPENAI
from gguf_embed.server.dialects.openai.embeddings import OpenAIEmbed, format_openai_embed, parse_openai_embed
from gguf_embed.server.fields.openai_errors import TYPES
from gguf_embed.server.http.errors import STATUSES, format_error
from gguf_embed.types import DENSE, EmbedRequest, EmbedResult, OutputSpec, Pooling, Truncation, Usage
from gguf_embed.vectors import Rows
from tests.server.fake_service import MODEL

VECTORS = np.array([[0.1, -1e-7, 1e30], [0.3333333, -0.0, 1.0]], dtype=np.float32)
RESULT = EmbedResult(MODEL, Rows.one_each(DENSE, VECTORS), Usage(7))


def asked(encoding_format: str) -> OpenAIEmbed:
    return OpenAIEmbed(EmbedRequest(("a", "b")), encoding_format)


def read_native(result: EmbedResult) -> list[dict]:
    return json.loads(b"".join(iter_llama_embed(result)))


def test_openai_floats_have_exactly_openais_shape():
    reply = json.loads(format_openai_embed(RESULT, asked("float")))
    assert [row.pop("embedding") for row in reply["data"]] == [[0.1, -1e-7, 1e30], [0.3333333, 0.0, 1.0]]
    assert reply == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0}, {"object": "embedding", "index": 1}],
        "model": "tiny",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def test_openai_base64_is_little_endian_float32():
    reply = json.loads(format_openai_embed(RESULT, asked("base64")))
    decoded = [np.frombuffer(base64.b64decode(row["embedding"], validate=True), "<f4") for row in reply["data"]]
    np.testing.assert_array_equal(np.stack(decoded), VECTORS)


@pytest.mark.parametrize("columns", [slice(None), slice(0, 3)])
def test_written_floats_read_back_as_the_same_float32(columns):
    bits = np.random.default_rng(0).integers(0, 2**32, (50, 400), dtype=np.uint32)
    vectors = np.nan_to_num(bits.view(np.float32))[:, columns]
    result = replace(RESULT, output=Rows.one_each(DENSE, vectors))
    read = [row["embedding"] for row in json.loads(format_openai_embed(result, asked("float")))["data"]]
    np.testing.assert_array_equal(np.array(read, dtype=np.float32).view(np.uint32), vectors.view(np.uint32))


def test_truncation_is_reported_in_both_shapes():
    result = replace(RESULT, truncated=(Truncation(1, 20, 16),))
    cut = {"n_tokens": 20, "n_kept": 16, "n_dropped": 4}
    assert json.loads(format_openai_embed(result, asked("float")))["truncated"] == [{"index": 1, **cut}]
    first, second = read_native(result)
    assert "truncated" not in first
    assert second["truncated"] == cut


def test_native_nests_one_row_per_token():
    result = replace(RESULT, output=Rows.per_token(np.ones((3, 2), np.float32), [2, 1]))
    assert read_native(result) == [
        {"index": 0, "embedding": [[1.0, 1.0], [1.0, 1.0]]},
        {"index": 1, "embedding": [[1.0, 1.0]]},
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_a_large_reply_in_llama_cpps_shape_comes_in_pieces_that_join(n):
    vectors = np.zeros((n, 100_000), np.float32)
    result = replace(RESULT, output=Rows.one_each(DENSE, vectors))
    pieces = list(iter_llama_embed(result))
    assert len(pieces) == n // 2 + 1
    assert [item["index"] for item in json.loads(b"".join(pieces))] == list(range(n))


def test_native_nests_a_pooled_row_too():
    assert read_native(RESULT)[0]["embedding"] == [pytest.approx([0.1, -1e-7, 1e30])]


@pytest.mark.parametrize(
    ("body", "encoding_format"),
    [({}, "float"), ({"encoding_format": None}, "float"), ({"encoding_format": "BASE64"}, "base64")],
)
def test_openai_encoding_format_defaults_to_float(body, encoding_format):
    assert parse_openai_embed({"input": "a", **body}, 10).encoding_format == encoding_format


def test_openai_fields_become_a_request():
    body = {"input": "a", "model": "m", "dimensions": 4, "user": "u", "truncate": True, "pooling": "CLS", "other": 1}
    assert parse_openai_embed(body, 10).request == EmbedRequest(("a",), "m", OutputSpec.of(Pooling.CLS), 2, 4, True)


def test_nulls_mean_absent():
    body = dict.fromkeys(("model", "dimensions", "user", "truncate", "pooling", "embd_normalize", "content"))
    assert parse_openai_embed({"input": "a", **body}, 10).request == EmbedRequest(("a",), embd_normalize=2)
    assert parse_llama_embed({"input": "a", **body}, 10).request == EmbedRequest(("a",), scores=True)


def test_native_prefers_input_over_content():
    assert parse_llama_embed({"input": "a", "content": "b"}, 10).request.inputs == ("a",)
    assert parse_llama_embed({"content": ["b", 3]}, 10).request.inputs == (("b", 3),)


@pytest.mark.parametrize("value", [-1, 0, 1, 2, 3, 100])
def test_native_takes_every_normalization(value):
    assert parse_llama_embed({"input": "a", "embd_normalize": value}, 10).request.embd_normalize == value


def test_every_wire_kind_has_a_distinct_openai_code():
    assert set(TYPES) == set(STATUSES)
    codes = [code for _, code in TYPES.values()]
    assert len(set(codes)) == len(codes)


def test_too_long_tells_the_numbers_in_both_dialects():
    error = InputTooLong(3, 700, 512)
    openai = json.loads(format_error(error, OPENAI.errors).body)["error"]
    llama = json.loads(format_error(error, LLAMA.errors).body)["error"]
    assert (openai["code"], openai["param"]) == ("context_length_exceeded", "input")
    assert (llama["code"], llama["type"]) == (400, "exceed_context_size_error")
    for shape in (openai, llama):
        assert (shape["index"], shape["n_prompt_tokens"], shape["n_ctx"]) == (3, 700, 512)


def test_an_overload_has_the_time_to_retry():
    assert format_error(Overloaded("full", retry_after_s=7), OPENAI.errors).headers["Retry-After"] == "7"
    assert format_error(Overloaded("full", retry_after_s=0), OPENAI.errors).headers["Retry-After"] == "1"


def test_a_start_time_error_does_not_leak_to_a_client():
    reply = format_error(ModelFileError("/secret/path is broken"), LLAMA.errors)
    assert reply.status == 500
    assert b"secret" not in reply.body


def test_an_invalid_request_names_its_param():
    error = json.loads(format_error(InvalidRequest("no", "input"), OPENAI.errors).body)["error"]
    assert error == {"message": "no", "type": "invalid_request_error", "param": "input", "code": "invalid_request"}
