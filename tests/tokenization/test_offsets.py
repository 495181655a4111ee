from __future__ import annotations

import itertools
import unicodedata
from random import Random

import pytest

from gguf_embed.tokenization.offsets import OffsetUnit, align, code_point_at, find_in_order, trim, unit_starts

ALPHABET = "ab cd  Éßñ中文한글\u0301\u1112\u1161👩‍🚀🎉\n\t.,İΣς"


@pytest.mark.parametrize(
    ("text", "unit", "starts"),
    [
        ("añ🎉b", OffsetUnit.CODEPOINTS, [0, 1, 2, 3, 4]),
        ("añ🎉b", OffsetUnit.UTF16, [0, 1, 2, 4, 5]),
        ("añ🎉b", OffsetUnit.UTF8, [0, 1, 3, 7, 8]),
        ("", OffsetUnit.UTF16, [0]),
    ],
)
def test_where_characters_begin(text, unit, starts):
    assert list(unit_starts(text, unit)) == starts
    assert [code_point_at(starts, start) for start in starts] == list(range(len(starts)))
    missing = set(range(starts[-1])) - set(starts)
    assert {code_point_at(starts, position) for position in missing} <= {None}


@pytest.mark.parametrize(
    ("unit", "encoding", "size"), [(OffsetUnit.UTF16, "utf-16-le", 2), (OffsetUnit.UTF8, "utf-8", 1)]
)
def test_characters_begin_where_their_encodings_do(unit, encoding, size):
    text = "".join(map(chr, (*range(0x900), *range(0xD700, 0xE100), *range(0xFF00, 0x10100), 0x10FFFF)))
    ends = itertools.accumulate(len(character.encode(encoding, "surrogatepass")) // size for character in text)
    assert list(unit_starts(text, unit)) == [0, *ends]


def encoded(*pieces: str | None) -> list[bytes | None]:
    return [None if piece is None else piece.encode() for piece in pieces]


@pytest.mark.parametrize(
    ("text", "pieces", "words"),
    [
        ("hello world", ["hello", " world"], ["hello", "world"]),
        ("hello world", [" hello", " world"], ["hello", "world"]),  # SentencePiece's added space
        ("a  b", ["a", " ", " b"], ["a", " ", "b"]),
        ("Hello World", ["hello", " world"], ["Hello", "World"]),
        ("naïve café", ["naive", " cafe"], ["naïve", "café"]),
        ("nai\u0308ve x", ["naïve", " x"], ["nai\u0308ve", "x"]),
        ("ﬁne", ["fi", "ne"], ["ﬁ", "ne"]),
        ("１２", ["1", "2"], ["１", "２"]),
        ("\u1112\u1161\u11ab x", ["한", " x"], ["\u1112\u1161\u11ab", "x"]),
        ("a ☃ b", ["a", None, "b"], ["a", "☃", "b"]),
        ("☃☃ b", [None, " b"], ["☃☃", "b"]),
        ("a", ["x"], [None]),
        ("the cat sat", ["the", " dog", " sat"], ["the", None, "sat"]),
        ("", [], []),
        ("a", [], []),
        ("STRASSE", ["straße"], ["STRASSE"]),
    ],
)
def test_pieces_are_laid_over_the_text(text, pieces, words):
    found = align(text, encoded(*pieces))
    assert [span and text[slice(*span)] for span in found] == words


def test_two_pieces_of_one_character_both_get_it():
    assert align("x🎉", [b"x", "🎉".encode()[:2], "🎉".encode()[2:]]) == [(0, 1), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("text", "words", "spans"),
    [
        ("the cat, the dog", ["cat", "dog"], [(4, 7), (13, 16)]),
        ("the cat, the dog", ["the", "dog"], [None, (13, 16)]),  # which "the"?
        ("the cat, the dog", ["the", "the"], [(0, 3), (9, 12)]),
        ("abc", ["x"], [None]),
        ("aaa", ["a", "a"], [None, None]),
    ],
)
def test_a_word_with_one_possible_position_is_found(text, words, spans):
    assert find_in_order(text, words) == spans


@pytest.mark.parametrize("seed", range(30))
def test_any_cut_of_the_text_s_bytes_is_found_again(seed):
    random = Random(seed)
    for _ in range(40):
        text = "".join(random.choices(ALPHABET, k=random.randint(1, 30)))
        raw = text.encode()
        cuts = sorted({0, len(raw), *random.choices(range(len(raw) + 1), k=random.randint(0, 10))})
        spans = align(text, [raw[a:b] for a, b in itertools.pairwise(cuts)])
        starts = unit_starts(text, OffsetUnit.UTF8)
        for (a, b), span in zip(itertools.pairwise(cuts), spans, strict=True):
            touched = [i for i in range(len(text)) if starts[i] < b and starts[i + 1] > a]
            assert span == trim(text, touched[0], touched[-1] + 1)


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@pytest.mark.parametrize("seed", range(10))
def test_pieces_match_their_letters_across_unicode_forms(form, seed):
    """A tokenizer that normalizes: words, each normalized, must be found on the words of the text."""
    random = Random(seed)
    for _ in range(20):
        words = ["".join(random.choices("abÉñ中한글ﬁ１Å", k=random.randint(1, 6))) for _ in range(random.randint(1, 6))]
        text = " ".join(words)
        read = [unicodedata.normalize(form, word).encode() for word in words]
        pieces = [read[0], *(b" " + piece for piece in read[1:])]
        assert [text[slice(*span)] for span in align(text, pieces) if span] == words


@pytest.mark.parametrize("seed", range(20))
def test_offsets_are_in_range_and_in_order_for_any_pieces(seed):
    random = Random(seed)
    for _ in range(60):
        text = "".join(random.choices(ALPHABET, k=random.randint(0, 20)))
        pieces: list[bytes | None] = []
        for _ in range(random.randint(0, 8)):
            begin = random.randint(0, len(text))
            piece = random.choice((text[begin : begin + 3], text[begin : begin + 2].lower(), "zz", None))
            pieces.append(None if piece is None else piece.encode())
        found = align(text, pieces)
        assert len(found) == len(pieces)
        known = [span for span in found if span is not None]
        assert all(0 <= start < end <= len(text) for start, end in known)
        assert [start for start, _ in known] == sorted(start for start, _ in known)
