"""How static models read texts: as the original tokenizer does, and by the documented rules for word tables."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from gguf_embed.engines.static import piece_cache as static_pieces
from gguf_embed.engines.static.piece_cache import PieceCache, choose_split, joins_spaces, split_at_spaces
from gguf_embed.engines.static.tokenizer import HuggingFaceTokenizer
from gguf_embed.engines.static.words import WordTokenizer
from gguf_embed.errors import ModelFileError

DATA = Path(__file__).parents[2] / "data"
TEXTS = [entry["text"] for entry in json.loads((DATA / "reference_texts.json").read_text("utf-8"))]
ODD = [
    "",
    " ",
    "\n\t \r\n",
    "a\u00a0b\u2003c",
    "x\x1cy\x85z",
    "e\u0301 \u0301a",
    "a  b",
    "[UNK][PAD] [SEP]",
    "\ufffd\x00a",
    "w" * 150,
]
WORDPIECE = (DATA / "static/model2vec/tokenizer.json").read_text("utf-8")
UNIGRAM = (DATA / "static/static_embedding/tokenizer.json").read_text("utf-8")


def original_ids(source: str, texts: list[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(source)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def shuffled_pieces(n_texts: int) -> list[str]:
    """Texts of characters at which a tokenizer may or may not split."""
    rng = random.Random(1)
    parts = [
        "the",
        "cat",
        "Ünïcode",
        "中文",
        "한글",
        "don't",
        "!",
        " ",
        "\n",
        "\t",
        "\r",
        "\u00a0",
        "\u200b",
        "\u0301",
        "\x1c",
        "ﬁ",
        "İ",
    ]
    return ["".join(rng.choices([*parts, " ", " "], k=12)) for _ in range(n_texts)]


@pytest.mark.parametrize("source", [WORDPIECE, UNIGRAM])
def test_ids_are_the_original_tokenizers(source):
    texts = [*TEXTS, *ODD, *shuffled_pieces(2000)]
    ours = HuggingFaceTokenizer(source, 2000, None)
    assert ours.encode_batch(texts) == original_ids(source, texts)
    assert ours.encode_batch(texts[::-1]) == original_ids(source, texts[::-1])  # with all pieces remembered


def test_the_unknown_token_is_left_out_where_the_model_leaves_it_out():
    skipping = HuggingFaceTokenizer(WORDPIECE, 1500, 1)
    assert skipping.encode_batch(["cat \u0e01 dog \u0e01", "\u0e01"]) == [
        [token for token in ids if token != 1] for ids in original_ids(WORDPIECE, ["cat \u0e01 dog \u0e01", "\u0e01"])
    ]


def test_a_written_special_token_is_that_token_only_when_asked_for():
    tokenizer = HuggingFaceTokenizer(WORDPIECE, 1500, None)
    as_token, as_text = (tokenizer.encode_batch(["[PAD]"], parse_special=asked)[0] for asked in (True, False))
    assert as_token == [0]
    assert len(as_text) > 1


def test_a_piece_is_what_the_token_adds_to_a_text():
    tokenizer = HuggingFaceTokenizer(WORDPIECE, 1500, None)
    ids = {entry: token for token, entry in enumerate(tokenizer.entries)}
    assert [tokenizer.piece(ids[entry]) for entry in ("the", "##s")] == [" the", "s"]
    assert tokenizer.decode([ids["cat"], ids["##s"]]) == "cats"


def test_more_ids_than_rows_are_refused():
    with pytest.raises(ModelFileError, match=r"ids up to 1499\b.*\b1499 rows"):
        HuggingFaceTokenizer(WORDPIECE, 1499, None)


BERT = {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "added_tokens": []}
WORDS, SPACES = ["a", "(", "b", ")", "_", "c"], ["A", "(b)_c"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, WORDS),
        ({"normalizer": {"type": "BertNormalizer", "lowercase": False}}, ["A", *WORDS[1:]]),
        ({"normalizer": None}, SPACES),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}}, SPACES),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace"}]}}, None),
        ({"normalizer": {"type": "Precompiled"}}, None),
        ({"pre_tokenizer": None}, None),
        ({"pre_tokenizer": {"type": "Metaspace"}}, None),
        ({"pre_tokenizer": {"type": "Punctuation"}}, None),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits"}]}},
            SPACES,
        ),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}},
            None,
        ),
        ({"added_tokens": [{"content": "[PAD]"}]}, WORDS),
        ({"added_tokens": [{"content": "c"}]}, SPACES),
        ({"added_tokens": [{"content": "[new york]"}]}, None),
    ],
)
def test_texts_fall_into_pieces_only_where_the_rules_do(change, expected):
    split = choose_split(BERT | change)
    assert (split and split("A (b)_c")) == expected


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
ADDED = [{"id": 0, "content": "<unk>"}]
ONE_SPACE = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
GREEDY = {"id": 5, "content": "the", "single_word": False, "lstrip": True, "rstrip": True, "normalized": True}
GREEDY["special"] = False


@pytest.mark.parametrize(
    ("splitter", "added", "expected"),
    [
        (METASPACE, ADDED, True),
        (METASPACE | {"prepend_scheme": "never"}, ADDED, True),
        (METASPACE | {"prepend_scheme": "first"}, ADDED, False),
        (METASPACE | {"split": False}, ADDED, False),
        ({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}, ADDED, True),
        ({"type": "Sequence", "pretokenizers": [METASPACE, {"type": "Digits"}]}, ADDED, False),
        ({"type": "WhitespaceSplit"}, ADDED, False),
        (None, ADDED, False),
        (METASPACE, ADDED * 17, False),
    ],
)
def test_words_are_remembered_with_their_space_where_sentencepieces_rules_are_certain(splitter, added, expected):
    assert joins_spaces({"pre_tokenizer": splitter, "added_tokens": added}) is expected


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": None},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}, ONE_SPACE]}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}},
        {"pre_tokenizer": METASPACE | {"prepend_scheme": "first"}},
        {"added_tokens": [GREEDY]},
    ],
)
def test_other_rules_of_sentencepieces_kind_give_the_original_ids_too(change):
    source = json.dumps(json.loads(UNIGRAM) | change)
    texts = [*TEXTS, *ODD, *shuffled_pieces(1000), "<unk> a", "the the"]
    one_by_one = HuggingFaceTokenizer(source, 2000, None)
    assert [one_by_one.encode_batch([text])[0] for text in texts] == original_ids(source, texts)


class _Encoder:
    """Counts what it is asked; a piece's ids are its characters."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, pieces):
        self.asked += pieces
        return [[ord(character) for character in piece] for piece in pieces]


def test_each_piece_is_encoded_once():
    encoder = _Encoder()
    memory = PieceCache(split_at_spaces, encoder)
    assert memory.encode_batch(["a b", "b\ta", ""]) == [[97, 98], [98, 97], []]
    assert memory.encode_batch(["a", "b a"]) == [[97], [98, 97]]
    assert sorted(encoder.asked) == ["", "a", "b"]


def test_the_memory_stays_small_and_right(monkeypatch):
    monkeypatch.setattr(static_pieces, "MAX_PIECES", 3)
    encoder = _Encoder()
    memory = PieceCache(split_at_spaces, encoder)
    for texts in (["a b c"], ["d a"], ["a b c d e f"], ["x" * 65], ["x" * 65]):
        assert memory.encode_batch(texts) == [[ord(character) for character in texts[0] if character != " "]]
        assert len(memory._known) <= 3
    assert encoder.asked.count("x" * 65) == 2  # too long to be worth remembering


LOWER = ("the", "cat", "'s", "do", "n't", "don", "t", "<user>", "u.s.", ".", ",", "e-mail", "new", "york", "!")
CASED = ("Paris", "paris", "the", "US")


@pytest.mark.parametrize(
    ("words", "lowercase", "text", "expected"),
    [
        (LOWER, True, "The CAT", ["the", "cat"]),
        (LOWER, True, "the dog", ["the"]),
        (LOWER, True, "the cat, the cat.", ["the", "cat", ",", "the", "cat", "."]),
        (LOWER, True, "don't", ["do", "n't"]),
        (LOWER, True, "cat\u2019s", ["cat", "'s"]),
        (LOWER, True, "<user>, <USER>", ["<user>", ",", "<user>"]),
        (LOWER, True, "U.S. (u.s.)", ["u.s.", ".", "."]),
        (LOWER, True, "e-mail new-york", ["e-mail", "new", "york"]),
        (LOWER, True, "the\u00a0cat\u3000the", ["the", "cat", "the"]),
        (LOWER, True, "zebra 123 中", []),
        (LOWER, True, "", []),
        (CASED, False, "Paris paris PARIS", ["Paris", "paris", "paris"]),
        (CASED, False, "The US us", ["the", "US"]),
    ],
)
def test_a_words_texts_are_split_as_documented(words, lowercase, text, expected):
    tokenizer = WordTokenizer(words, lowercase)
    found = [words[token] for token in tokenizer.encode_batch([text])[0]]
    assert found == expected


def test_of_a_repeated_word_the_first_counts():
    assert WordTokenizer(("a", "b", "a"), True).encode_batch(["a b"]) == [[0, 1]]
