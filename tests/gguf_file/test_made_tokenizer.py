"""Tokenizers made of entries with scores or merges are the originals'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_embed.gguf_file.made_tokenizer import bpe_json, split_merges, unigram_json
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


@pytest.mark.parametrize("name", ["byte_bpe", "byte_bpe_modern"])
def test_bpe_is_the_original(name):
    stored = STORED.with_name(f"{name}.json").read_text("utf-8")
    original, model = load_tokenizer(stored), json.loads(stored)["model"]
    names = ("<s>", "</s>", "<unk>", "<pad>") if name == "byte_bpe" else ("[CLS]", "[SEP]", "[UNK]", "[PAD]")
    vocabulary = original.get_vocab(with_added_tokens=True)
    ids = {role: vocabulary[name] for role, name in zip(("bos", "eos", "unk", "pad"), names, strict=True)}
    content = "\n".join(map(" ".join, model["merges"])).encode()
    entries = sorted(vocabulary, key=vocabulary.__getitem__)
    n_separators = 2 if name == "byte_bpe" else 1
    is_modern = name == "byte_bpe_modern"
    made = bpe_json(entries, split_merges(content), ids, composes=is_modern, separators=n_separators)
    ours = load_tokenizer(made)
    texts = [*TEXTS, "e\u0301 \u00e9", "<s>x", "[SEP] y", "\U0001f600", "def f(x):\n    return 1"]
    for text in texts:
        if "<mask>" not in text:  # in the public models, it takes the space before it; in the tiny one it does not
            assert ours.encode(text).ids == original.encode(text).ids
    assert ours.encode("a", "b").ids == original.encode("a", "b").ids


def test_merges_with_line_breaks_are_separated_by_nul():
    assert split_merges(b"a b\n\0c d") == ["a b\n", "c d"]
    assert split_merges(b"") == []


def test_an_entry_without_a_role_is_ordinary(ours):
    assert ours.token_to_id("<mask>") == 4
    assert ours.encode("<mask>").ids == [0, 4, 2]
