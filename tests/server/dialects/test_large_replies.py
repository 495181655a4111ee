"""Replies with many rows or tokens: written in pieces, and none of it for long on the event loop."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace

import numpy as np
import orjson
import pytest

from gguf_embed.server.dialects.llama import embedding as native
from gguf_embed.server.dialects.llama.embedding import iter_llama_embed
from gguf_embed.server.dialects.openai import embeddings as openai
from gguf_embed.server.fields import options_reply
from gguf_embed.server.fields.options import EmbedOptions
from gguf_embed.server.fields.output_types import OutputType
from gguf_embed.tokenization.offsets import OffsetUnit
from gguf_embed.types import EmbedResult, TokenInfo, Truncation, Usage
from gguf_embed.vectors import Rows
from tests.server.fake_service import MODEL, FakeService, serving

FLOAT, BITS = OutputType("float", "float", False), OutputType("ubinary", "ubinary", False)
TEXT = OutputType("base64", "float", True)


def result_of(*n_rows: int, width: int = 64) -> EmbedResult:
    vectors = np.random.default_rng(0).standard_normal((sum(n_rows), width)).astype(np.float32)
    return EmbedResult(MODEL, Rows.per_token(vectors, n_rows), Usage(1), (Truncation(0, 9, 5),))


@pytest.mark.parametrize("types", [(), (FLOAT,), (BITS,), (TEXT,), (FLOAT, BITS, TEXT)])
@pytest.mark.parametrize("n_rows", [(9,), (1, 9, 1), (9, 0, 9), (3, 3, 3, 9, 0)])
def test_an_item_larger_than_a_piece_is_cut_into_pieces_that_say_the_same(monkeypatch, types, n_rows):
    result = result_of(*n_rows)
    details = [{"tokens": {"ids": orjson.Fragment(b"[1,2]")}} for _ in n_rows]
    whole = b"".join(iter_llama_embed(result, types, details))
    monkeypatch.setattr(native, "_NUMBERS_PER_PIECE", 4 * 64)
    pieces = list(iter_llama_embed(result, types, details))
    assert json.loads(b"".join(pieces)) == json.loads(whole)
    assert [item["index"] for item in json.loads(whole)] == list(range(len(n_rows)))
    assert max(map(len, pieces)) < 7 * 64 * 14 + 500  # one of up to four rows after three, each number 14 bytes


def test_a_million_numbers_are_no_piece_of_their_own():
    pieces = list(iter_llama_embed(result_of(1_000, width=1_024)))
    assert max(map(len, pieces)) < 4_000_000
    assert len(json.loads(b"".join(pieces))[0]["embedding"]) == 1_000


def test_a_large_reply_is_streamed_and_a_small_one_is_not(monkeypatch):
    body = {"input": ["abc", "de", "abcdef"], "pooling": "none"}

    async def scenario():
        async with serving() as running:
            whole = await running.post("/embedding", body)
            monkeypatch.setattr(native, "_STREAMED_BYTES", 300)
            monkeypatch.setattr(native, "_NUMBERS_PER_PIECE", 8)
            return whole, await running.post("/embedding", body), await running.post("/embedding", {"input": "a"})

    whole, streamed, small = asyncio.run(scenario())
    assert streamed.status == 200
    assert streamed.json == whole.json
    assert int(whole.headers["Content-Length"]) == len(whole.raw)
    assert "Content-Length" not in streamed.headers
    assert int(small.headers["Content-Length"]) == len(small.raw)


class Telling(FakeService):
    """Tells the tokens of every input, equal ones with one object, as the service does."""

    async def embed(self, request, check=None):
        result = await super().embed(request, check)
        read = {text: TokenInfo([1, 2], [b"a", b"\xf0"], [(0, 1), None]) for text in request.inputs}
        return replace(result, tokens=tuple(read[text] for text in request.inputs))


@pytest.mark.parametrize(
    ("path", "module", "name"),
    [("/v1/embeddings", openai, "format_openai_embed"), ("/embedding", native, "llama_details")],
)
def test_details_next_to_vectors_are_serialized_on_another_thread(monkeypatch, path, module, name):
    threads: list[threading.Thread] = []
    write = getattr(module, name)

    def noting(*args):
        threads.append(threading.current_thread())
        return write(*args)

    monkeypatch.setattr(module, name, noting)

    async def scenario():
        async with serving(Telling()) as running:
            reply = await running.post(path, {"input": ["é", "x", "é"], "return_tokens": True, "offset_unit": "utf8"})
            assert reply.status == 200
            return reply.json

    reply = asyncio.run(scenario())
    tokens = reply["tokens"] if path == "/v1/embeddings" else [item["tokens"] for item in reply]
    assert [entry["offsets"] for entry in tokens] == [[[0, 2], None], [[0, 1], None], [[0, 2], None]]
    assert [entry["pieces"] for entry in tokens] == [["a", [0xF0]]] * 3
    assert threads
    assert threading.main_thread() not in threads


def test_the_tokens_of_equal_inputs_are_written_once(monkeypatch):
    placed: list[str] = []
    unit_starts = options_reply.unit_starts
    monkeypatch.setattr(
        options_reply, "unit_starts", lambda text, unit: (placed.append(text), unit_starts(text, unit))[1]
    )
    tokens = TokenInfo([1], [b"a"], [(0, 1)])
    options = EmbedOptions(("é", "é", "é"), return_tokens=True, unit=OffsetUnit.UTF8)
    result = replace(result_of(1, 1, 1), tokens=(tokens, tokens, None), truncated=())
    details = options_reply.llama_details(result, options, lambda error: {})
    assert placed == ["é"]
    assert json.loads(orjson.dumps(details)) == [{"tokens": {"ids": [1], "pieces": ["a"], "offsets": [[0, 2]]}}] * 2 + [
        {}
    ]
