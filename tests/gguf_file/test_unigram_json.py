"""XLM-R's tokenizer from entries and scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_embed.gguf_file.unigram_json import unigram_json
from gguf_embed.tokenization.tokenizer_json import load_tokenizer

STORED = Path(__file__).parent.parent / "data" / "convert" / "tokenizers" / "unigram.json"
IDS = {"bos": 0, "eos": 2, "unk": 3, "pad": 1}
TEXTS = ["hello world", "  two   spaces ", "The quick brown fox", "a <mask> here", "x</s>y", "line\nbreak\ttab", ""]


@pytest.fixture(scope="module")
def ours():
    vocab = json.loads(STORED.read_text("utf-8"))["model"]["vocab"]
    return load_tokenizer(unigram_json([text for text, _ in vocab], [score for _, score in vocab], IDS))


def test_it_is_the_original_where_that_normalizes_nothing(ours):
    original = load_tokenizer(STORED.read_text("utf-8"))
    for text in TEXTS:
        assert ours.encode(text).ids == original.encode(text).ids
    assert ours.encode("a", "b").ids == original.encode("a", "b").ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so\u2026", "so..."),
        ("\uff21\uff11", "A1"),
        ("a\u3000b\u00a0c", "a b c"),
        ("\ufb01 \u2460 \u3231", "fi 1 (\u682a)"),
        ("e\u0301", "\u00e9"),
        ("1\uff5e2", "1\uff5e2"),  # Japanese for "to"; NFKC would make an ASCII tilde of it
        ("a\u200db\ufeffc", "a b c"),
        ("a\tb\r\nc", "a b c"),
        ("a\x07b\x7fc", "abc"),
        ("\u201cquoted\u201d \u2014", "\u201cquoted\u201d \u2014"),
    ],
)
def test_it_normalizes_as_the_table_of_the_public_models_does(ours, text, expected):
    assert ours.normalizer.normalize_str(text) == expected


def test_an_entry_without_a_role_is_ordinary(ours):
    assert ours.token_to_id("<mask>") == 4
    assert ours.encode("<mask>").ids == [0, 4, 2]
