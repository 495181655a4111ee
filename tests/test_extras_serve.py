"""`return_tokens`, `spans`, `late_chunking`, `long_input` and `on_error` as clients send them. No fakes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.server_process import Reply, Server
from tests.test_exactness import row_cosines

REFERENCE = Path(__file__).parent / "data" / "span_reference.npz"
# of a number: with BF16 weights a vector depends a little on what shares its batch; one token more makes 0.05
TOLERANCE = 1e-3
LONG = "the cat " * 60  # over the tiny model's 64 tokens


def counter(server: Server, name: str) -> float:
    lines = server.get("/metrics").body.decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"gguf_embed_{name}"))


def labels(reply: Reply) -> list[dict[str, object]]:
    assert reply.status == 200, reply.body
    return [{k: v for k, v in item.items() if k not in ("object", "embedding")} for item in reply.json()["data"]]


def test_late_chunking_gives_the_vectors_of_the_original_model(default_server):
    reference = np.load(REFERENCE)
    chunks = [str(chunk) for chunk in reference["chunks"]]
    reply = default_server.post("/v1/embeddings", {"input": chunks, "late_chunking": True})
    assert labels(reply) == [{"index": index} for index in range(len(chunks))]
    assert row_cosines(reply.vectors(), reference["vectors"]).min() > 0.9999
    text = "".join(chunks)
    whole = default_server.post("/v1/embeddings", {"input": text, "spans": [[0, len(text)]]}).vectors()
    assert row_cosines(whole, reference["whole"][None]).min() > 0.9999
    alone = default_server.embed(chunks)
    assert row_cosines(alone, reference["vectors"]).max() < 0.99  # it is not what each chunk gives by itself


def test_spans_are_the_same_on_both_routes_and_say_what_they_are(tiny_server):
    body = {"input": ["the cat sat", "hello world"], "spans": [[[0, 3], [4, 11]], [[6, 11]]]}
    reply = tiny_server.post("/v1/embeddings", body)
    assert labels(reply) == [
        {"index": 0, "input": 0, "span": [0, 3]},
        {"index": 1, "input": 0, "span": [4, 11]},
        {"index": 2, "input": 1, "span": [6, 11]},
    ]
    native = tiny_server.post("/embedding", body)
    assert [item["spans"] for item in native.json()] == body["spans"]
    np.testing.assert_allclose(native.vectors(), reply.vectors(), atol=TOLERANCE)
    rows = tiny_server.post("/embedding", {"input": "the cat sat", "pooling": "none"}).vectors()
    mean = rows[[0, 1]].mean(axis=0)
    np.testing.assert_allclose(reply.vectors()[0], mean / np.linalg.norm(mean), atol=TOLERANCE)


def test_vectors_of_spans_are_normalized_as_requested_on_llama_cpps_route(tiny_server):
    body = {"input": "the cat sat", "spans": [[4, 7]], "embd_normalize": -1}
    rows = tiny_server.post("/embedding", {"input": "the cat sat", "pooling": "none"}).vectors()
    np.testing.assert_allclose(tiny_server.post("/embedding", body).vectors()[0], rows[2], atol=TOLERANCE)


def test_late_chunking_on_the_native_route_is_one_item_with_a_row_per_chunk(tiny_server):
    reply = tiny_server.post("/embedding", {"input": ["the cat ", "sat"], "late_chunking": True})
    [item] = reply.json()
    assert (item["index"], item["spans"], len(item["embedding"])) == (0, [[0, 8], [8, 11]], 2)


def test_tokens_have_pieces_and_offsets(tiny_server):
    text = "Cats, é🎉!"
    reply = tiny_server.post("/v1/embeddings", {"input": text, "return_tokens": True})
    first = reply.json()["tokens"][0]
    assert first["ids"] == tiny_server.post("/tokenize", {"content": text, "add_special": True}).json()["tokens"]
    parts = [None if span is None else text[slice(*span)] for span in first["offsets"]]
    assert parts == [None, "Cat", "s", ",", "é🎉", "!", None]
    assert [piece.strip() for piece in first["pieces"]][1:3] == ["cat", "s"]
    native = tiny_server.post("/embedding", {"input": text, "return_tokens": True, "pooling": "none"}).json()[0]
    assert native["tokens"] == {key: first[key] for key in ("ids", "pieces", "offsets")}
    assert len(native["embedding"]) == len(first["ids"])


@pytest.mark.parametrize(("unit", "end"), [("codepoints", 3), ("utf16", 4), ("utf8", 6)])
def test_offsets_count_in_the_requested_unit(tiny_server, unit, end):
    body = {"input": "a 🎉", "return_tokens": True, "offset_unit": unit}
    offsets = tiny_server.post("/v1/embeddings", body).json()["tokens"][0]["offsets"]
    assert offsets == [None, [0, 1], [2, end], None]


def test_pieces_that_are_parts_of_characters_are_bytes(launch, models):
    server = launch("-m", models / "decoder.gguf", "--pooling", "mean")
    [tokens] = server.post("/v1/embeddings", {"input": "a🎉", "return_tokens": True}).json()["tokens"]
    party = [(piece, span) for piece, span in zip(tokens["pieces"], tokens["offsets"], strict=True) if span == [1, 2]]
    assert [byte for piece, _ in party for byte in piece] == list("🎉".encode())


def test_long_texts_are_averaged_if_requested_and_the_reply_reports_it(tiny_server):
    before = counter(tiny_server, "windowed_texts_total")
    body = {"input": ["hello", LONG], "long_input": "chunk_mean"}
    reply = tiny_server.post("/v1/embeddings", body)
    assert reply.json()["windowed"] == [{"index": 1, "n_tokens": 122, "n_windows": 2}]
    assert reply.headers["X-Gguf-Embed-Windowed"] == "1"
    assert "X-Gguf-Embed-Truncated" not in reply.headers
    native = tiny_server.post("/embedding", body)
    assert [item.get("windowed") for item in native.json()] == [None, {"n_tokens": 122, "n_windows": 2}]
    np.testing.assert_allclose(native.vectors(), reply.vectors(), atol=TOLERANCE)
    assert counter(tiny_server, "windowed_texts_total") == before + 2
    short = tiny_server.post("/v1/embeddings", {"input": "hello", "long_input": "chunk_mean"})
    assert "windowed" not in short.json()


def test_a_server_that_truncates_reads_windows_when_a_request_asks(launch, models):
    server = launch("-m", models / "encoder.gguf", "--truncate")
    reply = server.post("/v1/embeddings", {"input": LONG, "long_input": "chunk_mean"}).json()
    assert "truncated" not in reply
    assert reply["windowed"][0]["n_windows"] == 2


BAD = ["hello", LONG, None, "cat"]


def test_skipped_inputs_are_named_and_the_others_keep_their_index(tiny_server):
    reply = tiny_server.post("/v1/embeddings", {"input": BAD, "on_error": "skip"})
    assert labels(reply) == [{"index": 0}, {"index": 3}]
    assert reply.headers["X-Gguf-Embed-Failed"] == "1,2"
    long, wrong = reply.json()["errors"]
    assert (long["index"], long["code"], long["n_prompt_tokens"], long["n_ctx"]) == (
        1,
        "context_length_exceeded",
        122,
        64,
    )
    assert (wrong["index"], wrong["code"], wrong["type"]) == (2, "invalid_request", "invalid_request_error")
    np.testing.assert_allclose(reply.vectors(), tiny_server.embed(["hello", "cat"]), atol=TOLERANCE)


def test_skipped_inputs_of_the_native_route_have_an_error_in_their_item(tiny_server):
    before = counter(tiny_server, "failed_texts_total"), counter(tiny_server, "texts_total")
    items = tiny_server.post("/embedding", {"content": BAD, "on_error": "skip"}).json()
    assert [sorted(item) for item in items] == [
        ["embedding", "index"],
        ["error", "index"],
        ["error", "index"],
        ["embedding", "index"],
    ]
    assert [item["error"]["type"] for item in items[1:3]] == ["exceed_context_size_error", "invalid_request_error"]
    after = counter(tiny_server, "failed_texts_total"), counter(tiny_server, "texts_total")
    assert (after[0] - before[0], after[1] - before[1]) == (2, 2)


@pytest.mark.parametrize("more", [{}, {"encoding_format": "base64"}, {"output_dtype": "int8"}, {"dimensions": 4}])
def test_when_all_inputs_fail_the_answer_is_200_without_vectors(tiny_server, more):
    reply = tiny_server.post("/v1/embeddings", {"input": [LONG, None], "on_error": "skip", **more})
    assert (reply.status, reply.json()["data"]) == (200, [])
    assert [error["index"] for error in reply.json()["errors"]] == [0, 1]
    assert reply.json()["usage"]["prompt_tokens"] == 0


def test_with_skip_the_list_of_errors_may_be_empty(tiny_server):
    assert tiny_server.post("/v1/embeddings", {"input": "a", "on_error": "skip"}).json()["errors"] == []


def test_by_default_one_wrong_input_fails_the_request_and_is_named(tiny_server):
    reply = tiny_server.post("/v1/embeddings", {"input": ["a", "a", LONG, "b"]})
    assert (reply.status, reply.json()["error"]["index"]) == (400, 2)
    reply = tiny_server.post("/embedding", {"input": ["a", "a", [5, 999_999]]})
    assert (reply.status, reply.json()["error"]["index"]) == (400, 2)


def test_spans_of_skipped_inputs_are_missing_and_the_others_are_counted(tiny_server):
    body = {
        "input": [LONG, "the cat", {"bad": 1}, "the cat", "a dog"],
        "spans": [[[0, 3]], [[0, 3], [4, 7]], [[0, 1]], [[0, 80]], [[0, 1]]],
        "on_error": "skip",
    }
    for unit in ("codepoints", "utf16", "utf8"):
        reply = tiny_server.post("/v1/embeddings", body | {"offset_unit": unit})
        assert [(item["index"], item["input"]) for item in labels(reply)] == [(0, 1), (1, 1), (2, 4)]
        assert [error["index"] for error in reply.json()["errors"]] == [0, 2, 3]
        items = tiny_server.post("/embedding", body | {"offset_unit": unit}).json()
        assert ["error" in item for item in items] == [True, False, True, True, False]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
@pytest.mark.parametrize(
    "body",
    [
        {"input": "a", "spans": [[0, 2]]},
        {"input": "a", "spans": [[0, 1]], "pooling": "cls"},
        {"input": "a", "spans": [[0, 1]], "long_input": "chunk_mean"},
        {"input": "a", "long_input": "chunk_mean", "truncate": True},
        {"input": ["a", "b"], "late_chunking": True, "on_error": "skip"},
        {"input": {"prompt_string": "<__media__>", "multimodal_data": ["aGVsbG8="]}, "return_tokens": True},
    ],
)
def test_invalid_requests_are_a_4xx(tiny_server, path, body):
    reply = tiny_server.post(path, body)
    assert reply.status in (400, 501)
    assert reply.json()["error"]["message"]


@pytest.mark.parametrize("output", [{"output_dtype": "int8"}, {"encoding_format": "base64"}])
def test_spans_come_in_every_output_type(tiny_server, output):
    body = {"input": "the cat sat", "spans": [[0, 3], [4, 7]], **output}
    assert len(tiny_server.post("/v1/embeddings", body).json()["data"]) == 2


JUNK = [
    None,
    True,
    False,
    0,
    -1,
    2.5,
    10**30,
    "",
    "skip",
    "chunk_mean",
    "utf16",
    "a",
    [],
    {},
    [[]],
    [None],
    [[0, 1]],
    [0],
]
JUNK += [[[0, 1], [1, 2]], [[[0, 1]], [[0, 1]]], [["a", "b"]], [[0, 10**30]], [[[0, 1]]], "fail", "error"]
INPUTS = [
    "",
    "a",
    "the cat 🎉",
    LONG,
    [5, 6],
    ["a", "b"],
    ["a", ["b"]],
    [None],
    [None, "a"],
    ["the cat", {"bad": 1}],
    ["a", 5],
    ["a", 5.5],
    [[5], [999_999]],
    ["", ""],
]
SENSE: dict[str, list[object]] = {
    "return_tokens": [True],
    "spans": [[[0, 1]], [[[0, 1]], [[0, 1]]], [[[0, 3]], [[0, 1]]], [[[0, 80]], [[0, 1]]]],
    "late_chunking": [True],
    "long_input": ["chunk_mean"],
    "on_error": ["skip"],
    "offset_unit": ["utf16", "utf8"],
    "truncate": [True],
    "pooling": ["mean", "none"],
}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embedding"])
@pytest.mark.parametrize("seed", range(4))
def test_no_mixture_of_fields_makes_a_500(tiny_server, path, seed):
    random = Random(seed)
    statuses = Counter[int]()
    for _ in range(120):
        fields = random.sample(list(SENSE), random.randint(1, 5))
        body = {"input": random.choice(INPUTS), **{field: random.choice(JUNK) for field in fields}}
        body |= {field: random.choice(SENSE[field]) for field in fields if random.random() < 0.7}
        reply = tiny_server.post(path, body)
        assert reply.status in (200, 400), (body, reply.body)
        statuses[reply.status] += 1
    assert set(statuses) == {200, 400}
