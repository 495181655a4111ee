"""Cutting as every API asks for it, on a real server: what is read, what is kept, what the reply says."""

from __future__ import annotations

import numpy as np
import pytest

from tests.server_process import start_server, stop

WORDS = [f"{word}{n}" for n in range(40) for word in ("the", "cat", "sat")]
LONG = " ".join(WORDS)


@pytest.fixture(scope="module")
def tokens(tiny_server):
    """The ids of the long text, special tokens included; more than the model's 64."""
    ids = tiny_server.post("/tokenize", {"content": LONG, "add_special": True}).json()["tokens"]
    assert len(ids) > 64
    return ids


@pytest.fixture(scope="module")
def reranker(cache_dir, models):
    server = start_server(cache_dir, "-m", models / "reranker.gguf", "--precision", "f32")
    yield server
    stop(server)


def rows(server, path, field, **fields):
    """The vectors of one text from any route, as float32[n, d], and the header that reports a cut."""
    reply = server.post(path, {field: fields.pop("text", LONG), "model": "encoder", **fields})
    assert reply.status == 200, reply.body
    written = reply.json()
    if isinstance(written, list):
        found = [item["embedding"][0] if isinstance(item, dict) else item for item in written]
    elif "data" in written:
        found = [item["embedding"] for item in written["data"]]
    elif isinstance(written.get("embeddings"), dict):
        found = written["embeddings"]["float"]
    else:
        found = written.get("embeddings") or [written["embedding"]]
    return np.array(found, np.float32), reply.headers.get("X-Gguf-Embed-Truncated")


ROUTES = [
    ("/v1/embeddings", "input"),
    ("/embedding", "content"),
    ("/embed", "inputs"),
    ("/", "inputs"),
    ("/v2/embed", "input"),
    ("/v1/embed", "input"),
    ("/api/embed", "input"),
    ("/api/embeddings", "input"),
]


@pytest.mark.parametrize(("path", "field"), ROUTES)
@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate": "END"}, lambda ids: [*ids[:63], ids[-1]]),
        ({"truncation": True}, lambda ids: [*ids[:63], ids[-1]]),
        ({"truncate": "start"}, lambda ids: [ids[0], *ids[-63:]]),
        ({"truncate": True, "truncation_direction": "Left"}, lambda ids: [ids[0], *ids[-63:]]),
        ({"truncate_prompt_tokens": 5}, lambda ids: [*ids[:4], ids[-1]]),
        ({"truncate_prompt_tokens": 5, "truncation_side": "left"}, lambda ids: [ids[0], *ids[-4:]]),
        ({"truncate_prompt_tokens": 1000}, lambda ids: [*ids[:63], ids[-1]]),
        ({"truncate_prompt_tokens": -1}, lambda ids: [*ids[:63], ids[-1]]),
        ({"truncate": "END", "max_tokens": 6}, lambda ids: [*ids[:5], ids[-1]]),
    ],
)
def test_the_vector_is_that_of_the_tokens_that_are_kept(tiny_server, tokens, path, field, fields, kept):
    expected = tiny_server.post("/embedding", {"content": kept(tokens)}).vectors()
    found, header = rows(tiny_server, path, field, **fields)
    assert header == "0"
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("path", "field"), ROUTES)
@pytest.mark.parametrize("fields", [{"truncate": "NONE"}, {"truncation": False}, {"truncate": False, "max_tokens": 9}])
def test_none_refuses_a_long_text_in_llama_servers_words(tiny_server, path, field, fields):
    reply = tiny_server.post(path, {field: LONG if path != "/v2/embed" else [LONG], "model": "encoder", **fields})
    assert reply.status in (400, 413)
    assert b"too large" in reply.body
    found, header = rows(tiny_server, path, field, **(fields | {"text": "the cat", "max_tokens": None}))
    assert (len(found), header) == (1, None)


def test_what_nvidias_client_sends_with_every_request(tiny_server):
    body = {"input": ["the cat"], "model": "encoder", "input_type": "passage", "encoding_format": "float"}
    sent = body | {"truncate": "NONE", "user": "me"}
    np.testing.assert_array_equal(
        tiny_server.post("/v1/embeddings", sent).vectors(), tiny_server.embed(["the cat"], model="encoder")
    )


def test_a_limit_that_leaves_no_room_for_a_text_is_refused(tiny_server):
    for fields in ({"truncate_prompt_tokens": 2}, {"truncate": "START", "max_tokens": 1}):
        reply = tiny_server.post("/v1/embeddings", {"input": LONG, **fields})
        assert (reply.status, "at least 3" in reply.json()["error"]["message"]) == (400, True)


def test_cutting_the_start_keeps_the_prompt(tiny_server, tokens):
    prompt = tiny_server.post("/tokenize", {"content": "a b "}).json()["tokens"]
    expected = tiny_server.post("/embedding", {"content": [tokens[0], *prompt, *tokens[-(63 - len(prompt)) :]]})
    found, _ = rows(tiny_server, "/v1/embeddings", "input", truncate="START", prompt="a b ")
    np.testing.assert_allclose(found, expected.vectors(), atol=1e-5)
    reply = tiny_server.post("/v1/embeddings", {"input": LONG, "truncate": "START", "prompt": "a b " * 60})
    assert (reply.status, "no room" in reply.json()["error"]["message"]) == (400, True)


def test_token_ids_are_cut_from_the_start_as_well(tiny_server, tokens):
    expected = tiny_server.post("/embedding", {"content": [tokens[0], *tokens[-63:]]}).vectors()
    found, _ = rows(tiny_server, "/embedding", "content", text=tokens, truncate="START")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    found, _ = rows(tiny_server, "/embedding", "content", text=tokens[1:-1], truncate="START")
    expected = tiny_server.post("/embedding", {"content": tokens[1:-1][-64:]}).vectors()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("fields", [{"spans": [[0, 3]]}, {"return_tokens": True}])
def test_offsets_need_the_beginning(tiny_server, fields):
    reply = tiny_server.post("/v1/embeddings", {"input": LONG, "truncate": "START", **fields})
    assert (reply.status, "have the end cut" in reply.json()["error"]["message"]) == (400, True)


def test_windows_and_a_limit_exclude_each_other(tiny_server):
    body = {"input": LONG, "long_input": "chunk_mean"}
    for fields in ({"max_tokens": 9}, {"truncate_prompt_tokens": 9}, {"truncate": "START"}):
        assert tiny_server.post("/v1/embeddings", body | fields).status == 400


@pytest.mark.process
@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank"])
@pytest.mark.parametrize("documents", ["documents", "texts", "passages"])
def test_documents_are_cut_at_either_end(reranker, path, documents):
    server = reranker
    words = (["the", "cat", "a", "b"] * 20)[:79]  # one token each
    assert len(server.post("/tokenize", {"content": " ".join(words)}).json()["tokens"]) == len(words)
    room = 64 - 3 - 2
    document, begin, end = (" ".join(part) for part in (words, words[:room], words[-room:]))

    def scores(text, **fields):
        reply = server.post(path, {"query": "the cat", documents: [text], "raw_scores": True, **fields})
        assert reply.status == 200, reply.body
        found = reply.json()
        items = found if isinstance(found, list) else found["results"]
        return [item.get("score", item.get("relevance_score")) for item in items], reply.headers

    for fields, same_as in (({"truncate": "END"}, begin), ({"truncate": "START"}, end), ({"truncation": True}, begin)):
        found, headers = scores(document, **fields)
        assert headers["X-Gguf-Embed-Truncated"] == "0"
        assert found == pytest.approx(scores(same_as)[0], abs=1e-4)
    reply = server.post(path, {"query": "the cat", documents: [document], "truncate": "NONE"})
    assert (reply.status, b"too large" in reply.body) == (400, True)
    assert scores(document, truncate_prompt_tokens=20)[1]["X-Gguf-Embed-Truncated"] == "0"
