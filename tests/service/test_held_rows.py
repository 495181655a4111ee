"""How much of token rows one request may make the server hold, and which threads its work may keep busy."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gguf_embed.errors import InvalidRequest
from gguf_embed.service import embed_checks, embed_plan, pipeline
from gguf_embed.types import EmbedRequest, Pooling
from tests.service.test_service import serving

TEXT = "abcd"  # the fake engine reads a token per letter, and what it puts around them


def row_bytes(running) -> int:
    return 4 * running.service.resolve("encoder").info.n_embd


def n_tokens(running, text: str = TEXT) -> int:
    return running.embed(text).usage.prompt_tokens


@pytest.mark.parametrize("fields", [{}, {"return_tokens": True}])
def test_a_text_s_rows_count_as_often_as_it_was_sent(models, monkeypatch, fields):
    with serving(models) as running:
        monkeypatch.setattr(embed_checks, "MAX_TOKEN_ROW_BYTES", 3 * n_tokens(running) * row_bytes(running))
        assert len(running.embed(*[TEXT] * 3, pooling=Pooling.NONE, **fields).output.offsets) == 4
        n_batches = len(running.batches)
        with pytest.raises(InvalidRequest, match=r"token would take \d+ bytes"):
            running.embed(*[TEXT] * 4, pooling=Pooling.NONE, **fields)
        assert len(running.batches) == n_batches


def test_for_spans_a_text_s_rows_count_once_and_each_span_s_vector(models, monkeypatch):
    with serving(models) as running:
        limit = n_tokens(running) + 6
        monkeypatch.setattr(embed_checks, "MAX_TOKEN_ROW_BYTES", limit * row_bytes(running))
        assert running.embed(*[TEXT] * 6, spans=(((0, 2),),) * 6).output.matrix.shape[0] == 6
        with pytest.raises(InvalidRequest, match=r"token would take \d+ bytes"):
            running.embed(*[TEXT] * 7, spans=(((0, 2),),) * 7)


def test_pooled_vectors_are_under_no_such_limit(models, monkeypatch):
    monkeypatch.setattr(embed_checks, "MAX_TOKEN_ROW_BYTES", 1)
    with serving(models) as running:
        assert len(running.embed(TEXT, return_tokens=True).output.matrix) == 1
        assert len(running.embed(TEXT).output.matrix) == 1


def test_requests_for_offsets_do_not_delay_long_texts(models, monkeypatch):
    """Four of them wait in their own thread; what only has to be tokenized is answered meanwhile."""
    go_on = threading.Event()
    tokenize = embed_plan.EmbedPlan.tokenize

    def tokenize_later(plan):
        assert not plan.finds_offsets or go_on.wait(30)
        return tokenize(plan)

    monkeypatch.setattr(embed_plan.EmbedPlan, "tokenize", tokenize_later)
    texts = ("a" * 2_000, "b" * 2_000, "c" * 2_000)  # more than is tokenized on the event loop
    assert sum(map(len, texts)) > pipeline.INLINE_CHARACTERS

    async def scenario(service):
        placed = [
            asyncio.create_task(service.embed(EmbedRequest(texts, return_tokens=True, truncate=True))) for _ in range(4)
        ]
        try:
            for _ in range(100):  # until they are where they wait
                await asyncio.sleep(0)
            async with asyncio.timeout(20):
                plain = await service.embed(EmbedRequest(texts, truncate=True))
        finally:
            go_on.set()
        return plain, await asyncio.gather(*placed)

    with serving(models) as running:
        plain, placed = running.run(scenario(running.service))
    assert [len(result.output.matrix) for result in (plain, *placed)] == [3] * 5


def test_equal_inputs_share_their_token_details(models):
    with serving(models) as running:
        first, other, again = running.embed("abc", "de", "abc", return_tokens=True).tokens
    assert first is again
    assert [len(read.pieces) == len(read.ids) == len(read.offsets) for read in (first, other)] == [True, True]
    assert b"de" in b"".join(other.pieces)


def test_each_piece_is_asked_for_once(models, monkeypatch):
    with serving(models) as running:
        running.embed("a")
        [engine] = running.loader.engines
        asked: list[int] = []
        codec = type(engine.codec)
        token_bytes = codec.token_bytes
        monkeypatch.setattr(codec, "token_bytes", lambda self, t: (asked.append(t), token_bytes(self, t))[1])
        tokens = [97, 98] * 2_000
        assert running.run(running.service.token_pieces(tokens, model=None)) == [b"a", b"b"] * 2_000
    assert asked == [97, 98]
