"""The shipped fake keeps the engine contract that tests and load tests rely on."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.engines.fake import BOS, EOS, FakeEngine, FakeScript, token_rows
from gguf_embed.errors import EngineFailure, ModelFileError
from gguf_embed.types import Pooling
from tests.engines.contexts import context_spec

TEXTS = [[1, 2, 3], [4, 5]]


def embed(engine: FakeEngine, texts: list[list[int]], pooling: Pooling = Pooling.MEAN) -> np.ndarray:
    context = engine.open_context(context_spec(pooling, 16, 4))
    try:
        return context.embed(texts, 1).matrix
    finally:
        context.close()


@pytest.mark.parametrize(
    ("pooling", "pick"),
    [
        (Pooling.MEAN, lambda rows: rows.mean(axis=0, keepdims=True)),
        (Pooling.CLS, lambda rows: rows[:1]),
        (Pooling.LAST, lambda rows: rows[-1:]),
        (Pooling.NONE, lambda rows: rows),
    ],
)
def test_rows_follow_from_each_text_alone(pooling, pick):
    rows = embed(FakeEngine(), TEXTS, pooling)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, np.concatenate([pick(token_rows(text, 8)) for text in TEXTS]))


def test_different_texts_get_different_rows():
    rows = embed(FakeEngine(), [[1, 2], [2, 1], [1], [2]])
    assert len(np.unique(rows, axis=0)) == 4


def test_a_rank_head_is_scripted():
    assert embed(FakeEngine(FakeScript(n_cls_out=2)), TEXTS, Pooling.RANK).shape == (2, 2)
    with pytest.raises(ModelFileError, match="no rank head"):
        embed(FakeEngine(), TEXTS, Pooling.RANK)


@pytest.mark.parametrize("batch", [[], [[1]] * 5, [[]], [[1] * 17], [[258]], [[-1]]])
def test_sizes_are_checked_as_a_real_engine_does(batch):
    with pytest.raises(EngineFailure):
        embed(FakeEngine(), batch)


def test_scripted_tokens_fail_or_spoil_or_kill():
    engine = FakeEngine(FakeScript(poison=frozenset({7}), nan=frozenset({8}), deadly=frozenset({9})))
    with pytest.raises(EngineFailure):
        embed(engine, [[1], [7]])
    with pytest.raises(SystemExit):
        embed(engine, [[9]])
    assert np.isnan(embed(engine, [[1], [8]])).any(axis=1).tolist() == [False, True]
    assert [batch.n_tokens for batch in engine.batches] == [2, 1, 2]


@pytest.mark.parametrize("text", ["", "hello", "中é", "a<s>b</s>", "<s>" * 3000])
def test_tokens_turn_back_into_the_text(text):
    engine = FakeEngine()
    tokens = engine.codec.tokenize(text, add_special=False, parse_special=True)
    assert engine.codec.detokenize(tokens) == text
    assert b"".join(map(engine.codec.token_bytes, tokens)).decode() == text


def test_special_tokens_are_added_and_parsed_when_asked_for():
    engine = FakeEngine()
    assert engine.codec.tokenize("a", add_special=True, parse_special=True) == [BOS, 97, EOS]
    assert engine.codec.tokenize("<s>", add_special=False, parse_special=True) == [BOS]
    assert engine.codec.tokenize("<s>", add_special=False, parse_special=False) == [*b"<s>"]
    vocabulary = engine.codec.vocabulary()
    assert (len(vocabulary.entries), vocabulary.entries[BOS]) == (engine.info.n_vocab, "<s>")


def test_an_open_context_or_a_closed_one_in_use_is_noticed():
    engine = FakeEngine()
    context = engine.open_context(context_spec(Pooling.MEAN, 16, 4))
    with pytest.raises(RuntimeError, match="still open"):
        engine.close()
    for _ in range(2):
        context.close()
    engine.close()
    with pytest.raises(RuntimeError, match="closed context"):
        context.embed([[1]], 1)
