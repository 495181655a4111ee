"""The official openai client with this server's own fields in `extra_body`."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.server_process import Server

LONG = "the cat " * 60


@pytest.fixture(scope="module")
def client(tiny_server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=tiny_server.url + "/v1", api_key="unused", max_retries=0) as opened:
        yield opened


@pytest.mark.parametrize("encoding", [openai.omit, "float"])
def test_skipped_inputs_leave_the_client_whole_vectors_and_the_errors(client, encoding):
    reply = client.embeddings.create(
        model="any", input=["hello", LONG, "cat"], encoding_format=encoding, extra_body={"on_error": "skip"}
    )
    assert [item.index for item in reply.data] == [0, 2]
    assert {len(item.embedding) for item in reply.data} == {32}
    assert [error["index"] for error in reply.model_extra["errors"]] == [1]


def test_when_all_inputs_fail_the_client_needs_an_encoding_format(client):
    """By itself it asks for base64, and then takes a reply without vectors for a failure of the server."""
    skip = {"on_error": "skip"}
    reply = client.embeddings.create(model="any", input=[LONG], encoding_format="float", extra_body=skip)
    assert (reply.data, reply.model_extra["errors"][0]["index"]) == ([], 0)
    with pytest.raises(ValueError, match="No embedding data received"):
        client.embeddings.create(model="any", input=[LONG], extra_body=skip)


def test_late_chunking_and_spans_read_like_any_reply(client):
    chunks = client.embeddings.create(model="any", input=["the cat ", "sat"], extra_body={"late_chunking": True})
    spans = client.embeddings.create(model="any", input="the cat sat", extra_body={"spans": [[0, 8], [8, 11]]})
    assert [item.index for item in chunks.data] == [item.index for item in spans.data] == [0, 1]
    for chunk, span in zip(chunks.data, spans.data, strict=True):
        assert chunk.embedding == pytest.approx(span.embedding, abs=1e-3)
    assert spans.data[1].model_extra["span"] == [8, 11]


def test_tokens_are_an_extra_of_the_reply(client):
    reply = client.embeddings.create(model="any", input="hello world", extra_body={"return_tokens": True})
    [tokens] = reply.model_extra["tokens"]
    assert tokens["offsets"] == [None, [0, 5], [6, 11], None]
