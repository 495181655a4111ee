"""Offsets of a text's own tokens, also of texts over the budget."""

from __future__ import annotations

import random

import pytest

from gguf_embed.embedder import token_offsets as module
from gguf_embed.embedder.token_offsets import parts

WORDS = ("the", "cat", "sat", "on", "a", "mat", "hello", "world", "red", "dogs", "中国", "é", "!?")


def test_tokens_are_where_they_stand_in_the_text_without_special_tokens(tiny):
    text = "Hello  cat, sats"
    spans = tiny.token_offsets(text)
    assert [text[start:end] for start, end in spans] == ["Hello", "cat", ",", "sat", "s"]
    assert len(spans) == len(tiny.tokenize(text)) - 2
    assert tiny.token_offsets("") == []


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_long_text_has_the_offsets_that_it_has_as_a_whole(open_model, monkeypatch, name):
    model = open_model(name)
    text = " ".join(random.Random(1).choices(WORDS, k=3000))
    whole = model.token_offsets(text[:9000])
    monkeypatch.setattr(module, "PART_CHARACTERS", 100)
    assert model.token_offsets(text[:9000]) == whole
    assert len(whole) > 2000


@pytest.mark.parametrize("text", ["", "a", "a b " * 50, "x" * 250, "x" * 95 + " " * 100 + "y", "a\n" * 200])
def test_parts_cover_the_text_and_end_before_white_space(text):
    found = list(parts(text, 100))
    assert "".join(text[start:end] for start, end in found) == text
    assert all(0 < end - start <= 100 for start, end in found)
    for _, end in found[:-1]:
        assert text[end].isspace() or text[end - 1 :][:1] in "x "


def test_offsets_of_a_long_document_take_little_time(tiny):
    text = "the cat sat on a mat " * 20_000
    assert len(tiny.token_offsets(text)) == 120_000
