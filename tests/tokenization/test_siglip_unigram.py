"""SigLIP's tokenizer: cleaning, filling up, text from ids. Ids are compared in test_towers.py."""

from __future__ import annotations

import pytest

from gguf_embed.convert.sentencepiece_file import read_sentencepiece
from gguf_embed.errors import InvalidRequest, ModelFileError
from gguf_embed.tokenization.siglip_unigram import SiglipCodec, canonical
from tests.data.tower_directories import DATA

PIECES = read_sentencepiece(DATA / "siglip" / "spiece.model")
EOS = PIECES.pieces.index("</s>")


@pytest.fixture(scope="module")
def codec():
    return SiglipCodec(PIECES.pieces, PIECES.scores, PIECES.types, PIECES.charsmap, 64)


@pytest.mark.parametrize(
    ("text", "read"),
    [("A Cat!", "▁a cat"), ("it's (3)", "▁its 3"), ("a \n\t b ", "▁a b"), (" a", "▁ a"), ("▁a", "▁ a"), ("", "▁")],
)
def test_case_punctuation_and_spaces_are_cleaned(text, read):
    assert canonical(text) == read


def test_every_text_has_64_ids_and_a_longer_one_an_end(codec):
    short, long = codec.tokenize_batch(["a cat", "a photo of a cat " * 40])
    assert (len(short), short[-1]) == (64, EOS)
    assert len(long) > 64
    assert (long[-1], EOS in long[:-1]) == (EOS, False)
    own = codec.tokenize("a cat", add_special=False, parse_special=True)
    assert short == own + [EOS] * (64 - len(own))


def test_ids_become_text_again_and_know_their_place(codec):
    ids, spans = codec.tokenize_with_offsets("A photo of a Cat")
    assert len(ids) == len(spans) == 64
    assert spans[-1] is None
    assert codec.detokenize([token for token in ids if token != EOS]) == "a photo of a cat"
    with pytest.raises(InvalidRequest, match="token id 99999 is not"):
        codec.token_bytes(99_999)


def test_another_vocabulary_is_refused():
    with pytest.raises(ModelFileError, match="is not SigLIP's"):
        SiglipCodec(["a", "<unk>"], [0.0, 0.0], [1, 2], b"", 64)
    with pytest.raises(ModelFileError, match="is not SigLIP's"):
        SiglipCodec(PIECES.pieces, PIECES.scores[:-1], PIECES.types, b"", 64)


@pytest.mark.parametrize("cut", [1, 10, 1000])
def test_a_damaged_file_is_an_error(tmp_path, cut):
    path = tmp_path / "spiece.model"
    path.write_bytes((DATA / "siglip" / "spiece.model").read_bytes()[:-cut])
    with pytest.raises(ModelFileError, match="not a SentencePiece model"):
        read_sentencepiece(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x07", b"\x12\x02\x18\x02", b"hello world"])
def test_another_file_is_an_error(tmp_path, content):
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="SentencePiece model"):
        read_sentencepiece(path)
