"""Text Embeddings Inference's endpoints over a real connection."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import EngineFailure, ModelLoadFailed, Overloaded, Unavailable
from gguf_embed.server.context import ServerOptions
from gguf_embed.server.dialects.tei.info import format_info
from gguf_embed.server.dialects.tei.tokens import format_tokens
from gguf_embed.server.http.body import TRUNCATED_HEADER
from gguf_embed.types import Pooling, PromptChoice, TextTokens, TokenInfo
from tests.server.fake_service import MODEL, FakeService, failing, serving, status_of, vector_of, with_pooling

LONG = "a" * 20  # 22 tokens, the limit is 16
SENTENCES = {"source_sentence": "ab", "sentences": ["c", "ab", "d"]}
EMBED_PATHS = ("/embed", "/")


def post(path, body, service=None, **options):
    """The reply to one POST."""

    async def scenario():
        async with serving(service, **options) as running:
            return await running.post(path, body)

    return asyncio.run(scenario())


@pytest.mark.parametrize("path", EMBED_PATHS)
@pytest.mark.parametrize("inputs", ["ab", ["ab"], ["ab", "c"], [7, 8], [[7, 8], [9]]])
def test_embed_returns_a_plain_array_of_vectors(path, inputs):
    reply = post(path, {"inputs": inputs})
    one = isinstance(inputs, str) or isinstance(inputs[0], int)
    expected = [vector_of(entry) for entry in ([inputs] if one else inputs)]
    assert reply.status == 200
    assert np.array_equal(np.array(reply.json, np.float32), expected)


def test_the_service_gets_teis_defaults_and_fields():
    service = FakeService(replace(MODEL, prompts={"query": "q: "}))
    post("/embed", {"inputs": "ab"}, service)
    fields = {"normalize": False, "truncate": False, "truncation_direction": "Right", "dimensions": 4}
    post("/embed", {"inputs": "ab", "prompt_name": "query", "model": "tiny-alias", **fields}, service)
    plain, full = service.requests
    assert (plain.embd_normalize, plain.truncate, plain.dimensions, plain.prompt) == (2, True, None, None)
    assert (full.embd_normalize, full.truncate, full.dimensions, full.model) == (-1, False, 4, "tiny-alias")
    assert full.prompt == PromptChoice(name="query", param="prompt_name")


def test_embed_all_gives_the_rows_of_every_token():
    reply = post("/embed_all", {"inputs": ["ab", "c"]}, with_pooling(Pooling.NONE))
    expected = [[vector_of(text, row).tolist() for row in range(len(text) + 2)] for text in ("ab", "c")]
    assert [np.array(rows, np.float32).tolist() for rows in reply.json] == expected


@pytest.mark.parametrize("path", ["/similarity", "/"])
def test_similarity_is_the_cosine_to_the_source(path):
    reply = post(path, {"inputs": SENTENCES})
    expected = [float(vector_of("ab") @ vector_of(text)) for text in SENTENCES["sentences"]]
    assert np.allclose(reply.json, expected, atol=1e-6)
    assert reply.json[1] == pytest.approx(1.0)


def test_similarity_takes_parameters():
    service = FakeService(replace(MODEL, prompts={"query": "q: "}))
    body = {"inputs": SENTENCES, "parameters": {"truncate": False, "prompt_name": "query"}}
    assert post("/similarity", body, service).status == 200
    (request,) = service.requests
    assert (request.truncate, request.prompt) == (False, PromptChoice(name="query", param="prompt_name"))


@pytest.mark.parametrize(
    ("path", "inputs"),
    [
        ("/embed", ["a", LONG]),
        ("/embed_all", ["a", LONG]),
        ("/similarity", {"source_sentence": "a", "sentences": [LONG]}),
    ],
)
def test_a_long_text_is_cut_and_a_header_reports_it(path, inputs):
    reply = post(path, {"inputs": inputs})
    assert (reply.status, reply.headers[TRUNCATED_HEADER]) == (200, "1")


@pytest.mark.parametrize(
    ("path", "body", "status", "error_type"),
    [
        ("/embed", {"inputs": LONG, "truncate": False}, 413, "Validation"),
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": ["a"] * 5}, 413, "Validation"),
        ("/embed", {}, 422, "Validation"),
        ("/embed", {"inputs": None}, 422, "Validation"),
        ("/embed", {"inputs": {"a": 1}}, 422, "Validation"),
        ("/embed", {"inputs": ["a", 1.5]}, 422, "Validation"),
        ("/embed", {"inputs": "a", "truncate": "yes"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "normalize": 1}, 422, "Validation"),
        ("/embed", {"inputs": "a", "dimensions": 0}, 422, "Validation"),
        ("/embed", {"inputs": "a", "dimensions": 9}, 422, "Validation"),
        ("/embed", {"inputs": "a", "pooling": "cls"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "embd_normalize": 1}, 422, "Validation"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation"),
        ("/embed", {"inputs": "a", "prompt_name": 3}, 422, "Validation"),
        ("/embed", b"{", 422, "Validation"),
        ("/embed", b"[]", 422, "Validation"),
        ("/embed", b"x" * 2000, 413, "Validation"),
        ("/", {"inputs": 3}, 422, "Validation"),
        ("/embed_all", {"inputs": []}, 400, "Empty"),
        ("/similarity", {"inputs": "a"}, 422, "Validation"),
        ("/similarity", {}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": 1, "sentences": ["a"]}}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", None]}}, 422, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"] * 4}}, 413, "Validation"),
        ("/similarity", {"inputs": SENTENCES, "parameters": []}, 422, "Validation"),
        ("/decode", {"ids": []}, 400, "Empty"),
        ("/decode", {"ids": "a"}, 422, "Validation"),
        ("/decode", {"ids": [["a"]]}, 422, "Validation"),
        ("/decode", {"ids": [-1]}, 422, "Validation"),
        ("/decode", {"ids": [300]}, 422, "Validation"),
        ("/decode", {"ids": [[1]] * 5}, 413, "Validation"),
    ],
)
def test_wrong_input_has_teis_status_and_shape(path, body, status, error_type):
    reply = post(path, body, max_inputs=4, max_body_bytes=1000)
    assert (reply.status, reply.json["error_type"]) == (status, error_type)
    assert list(reply.json) == ["error", "error_type"]
    assert len(reply.json["error"]) > 10


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (Overloaded("full", retry_after_s=3), 429, "Overloaded"),
        (EngineFailure("failed"), 424, "Backend"),
        (ModelLoadFailed("failed"), 424, "Backend"),
        (Unavailable("stopping"), 503, "Unhealthy"),
        (RuntimeError("secret"), 424, "Backend"),
    ],
)
def test_failures_have_teis_status_and_type(error, status, error_type):
    reply = post("/embed", {"inputs": "a"}, failing(error))
    assert (reply.status, reply.json["error_type"]) == (status, error_type)
    assert "secret" not in reply.json["error"]


def test_other_errors_keep_the_shape():
    async def scenario():
        async with serving(FakeService(strict_model=True), api_keys=("k",)) as running:
            key = {"Authorization": "Bearer k"}
            return [
                await running.post("/embed", {"inputs": "a"}),
                await running.post("/embed", {"inputs": "a", "model": "other"}, headers=key),
                await running.request("GET", "/embed", headers=key),
            ]

    replies = asyncio.run(scenario())
    assert [(reply.status, reply.json["error_type"]) for reply in replies] == [
        (401, "Unauthorized"),
        (404, "NotFound"),
        (405, "MethodNotAllowed"),
    ]


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/"])
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"inputs": ["a", 5]}, '"inputs[1]" is the number 5'),
        ({"inputs": "a", "truncation_direction": "up"}, '"truncation_direction" must be one of "Left", "Right", found'),
        ({"inputs": "a", "output_dtype": "int8"}, '"output_dtype"'),
        ({"inputs": ["a", "b"], "on_error": "skip"}, '"on_error"'),
        ({"inputs": "a", "spans": [[0, 1]]}, '"spans"'),
    ],
)
def test_fields_that_would_be_misread_or_ignored_are_refused(path, body, says):
    reply = post(path, body)
    assert (reply.status, reply.json["error_type"]) == (422, "Validation")
    assert says in reply.json["error"]


def test_the_error_for_a_long_text_has_only_the_ways_out_of_this_route():
    message = post("/embed", {"inputs": LONG, "truncate": False}).json["error"]
    assert message.startswith("input 0 is too large (22 tokens, the limit per text is 16): ")
    assert '"truncate": true' in message
    assert "--truncate" not in message
    assert "long_input" not in message


def test_tokenize_takes_content_or_inputs_not_both():
    reply = post("/tokenize", {"content": "a", "inputs": "a"})
    assert (reply.status, reply.json["error"]["message"].startswith('"content"')) == (400, True)
    assert '"content" must be provided' in post("/tokenize", {}).json["error"]["message"]


@pytest.mark.parametrize("path", EMBED_PATHS)
def test_a_model_of_token_rows_sends_to_embed_all(path):
    reply = post(path, {"inputs": "a"}, with_pooling(Pooling.NONE))
    assert (reply.status, reply.json["error_type"]) == (424, "Backend")
    assert "/embed_all" in reply.json["error"]


def test_info_has_teis_keys():
    async def scenario():
        async with serving(FakeService(others=[replace(MODEL, name="b", aliases=())]), max_inputs=9) as running:
            return [(await running.request("GET", path)).json for path in ("/info", "/info?model=b", "/info?model=c")]

    first, other, unknown = asyncio.run(scenario())
    assert first == {
        "model_id": "tiny",
        "model_sha": b"tiny".hex().ljust(64, "0"),
        "model_dtype": "float16",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": 512,
        "max_input_length": 16,
        "max_batch_tokens": 16,
        "max_batch_requests": None,
        "max_client_batch_size": 9,
        "auto_truncate": True,
        "tokenization_workers": 2,
        "version": "1.2.3",
        "sha": None,
        "docker_label": None,
    }
    assert other["model_id"] == "b"
    assert unknown["error_type"] == "NotFound"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"pooling": Pooling.CLS}, {"embedding": {"pooling": "cls"}}),
        ({"pooling": Pooling.LAST}, {"embedding": {"pooling": "last_token"}}),
        (
            {"pooling": Pooling.RANK, "n_scores": 1},
            {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        ),
        (
            {"pooling": Pooling.RANK, "n_scores": 2, "labels": ("no", "yes")},
            {"classifier": {"id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}},
        ),
        (
            {"pooling": Pooling.RANK, "n_scores": 2},
            {"classifier": {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}},
        ),
    ],
)
def test_the_model_type_is_in_teis_words(changes, expected):
    found = format_info(status_of(replace(MODEL, **changes)), ServerOptions(version="1"))
    assert found["model_type"] == expected


def test_tokenize_with_inputs_returns_tokens_and_offsets():
    reply = post("/tokenize", {"inputs": ["a b", "é"]})
    assert reply.json == [
        [
            {"id": 101, "text": "e", "special": True, "start": None, "stop": None},
            {"id": 97, "text": "a", "special": False, "start": 0, "stop": 1},
            {"id": 32, "text": " ", "special": False, "start": 1, "stop": 2},
            {"id": 98, "text": "b", "special": False, "start": 2, "stop": 3},
            {"id": 102, "text": "f", "special": True, "start": None, "stop": None},
        ],
        [
            {"id": 101, "text": "e", "special": True, "start": None, "stop": None},
            {"id": 195, "text": "\ufffd", "special": False, "start": None, "stop": None},
            {"id": 169, "text": "\ufffd", "special": False, "start": None, "stop": None},
            {"id": 102, "text": "f", "special": True, "start": None, "stop": None},
        ],
    ]
    (bare,) = post("/tokenize", {"inputs": "a", "add_special_tokens": False}).json
    assert post("/tokenize", {"inputs": "a", "add_special": False}).json == [bare]
    refused = post("/tokenize", {"inputs": "a", "parse_special": False})
    assert (refused.status, 'send "content" instead' in refused.json["error"]["message"]) == (400, True)
    assert [token["id"] for token in bare] == [97]


def test_the_tokens_of_a_long_text_are_the_same():
    (tokens,) = post("/tokenize", {"inputs": "ab " * 2000}).json
    assert len(tokens) == 6002
    assert tokens[-3:-1] == [
        {"id": 98, "text": "b", "special": False, "start": 5998, "stop": 5999},
        {"id": 32, "text": " ", "special": False, "start": 5999, "stop": 6000},
    ]


@pytest.mark.parametrize("inputs", [[], [1], {}, ["a", None], ["a"] * 5])
def test_tokenize_with_wrong_inputs_is_a_400(inputs):
    assert post("/tokenize", {"inputs": inputs}, max_inputs=4).status == 400


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"ids": [101, 97, 98, 102]}, ["ab"]),
        ({"ids": [[101, 97, 102], [98]]}, ["a", "b"]),
        ({"ids": [101, 97, 102], "skip_special_tokens": False}, ["eaf"]),
        ({"ids": [[]]}, [""]),
    ],
)
def test_decode_gives_the_texts(body, texts):
    assert post("/decode", body).json == texts


def test_a_token_with_unknown_offsets_has_no_start():
    found = TextTokens(TokenInfo([5, 6], [b"x", b"\xff"], [None, None]), range(2))
    assert [(token["text"], token["start"]) for token in format_tokens("ab", found)] == [("x", None), ("\ufffd", None)]


def test_the_root_takes_a_text_as_an_object_and_sentences():
    assert post("/", {"inputs": {"prompt_string": "a"}}).json == post("/embed", {"inputs": "a"}).json
    assert len(post("/", {"inputs": SENTENCES}).json) == len(SENTENCES["sentences"])
