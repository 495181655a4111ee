"""CLIP's tokenizer: merges rebuilt from the vocabulary, text from ids. Ids are compared in test_towers.py."""

from __future__ import annotations

import json

import pytest

from gguf_embed.errors import InvalidRequest, ModelFileError
from gguf_embed.tokenization.clip_bpe import ClipCodec, rebuilt_merges
from tests.data.tower_directories import DATA

ENTRIES = list(json.loads((DATA / "clip_quick" / "vocab.json").read_text("utf-8")))
MERGES = (DATA / "clip_quick" / "merges.txt").read_text("utf-8").splitlines()[1:]
BOS, EOS = len(ENTRIES) - 2, len(ENTRIES) - 1


@pytest.fixture(scope="module")
def codec():
    return ClipCodec(ENTRIES, MERGES)


def test_merges_are_rebuilt_from_the_vocabularys_order(codec):
    rebuilt = rebuilt_merges(ENTRIES)
    assert [" ".join(merge) for merge in rebuilt] == MERGES
    assert ClipCodec(ENTRIES).tokenize_batch(["a photo of a cat"]) == codec.tokenize_batch(["a photo of a cat"])


def test_a_vocabulary_in_another_order_is_refused():
    with pytest.raises(ModelFileError, match="does not follow from those before it"):
        rebuilt_merges([*ENTRIES[:512], *reversed(ENTRIES[512:])])
    with pytest.raises(ModelFileError, match=r"has no <\|startoftext\|>"):
        ClipCodec(ENTRIES[:-2], MERGES)
    with pytest.raises(ModelFileError, match="do not fit its vocabulary"):
        ClipCodec(ENTRIES, [*MERGES, "ab cd"])


def test_special_tokens_stand_around_a_text_and_may_be_read_in_it(codec):
    assert codec.tokenize("", add_special=True, parse_special=True) == [BOS, EOS]
    assert codec.tokenize("<|endoftext|>", add_special=False, parse_special=True) == [EOS]
    literal = codec.tokenize("<|endoftext|>", add_special=False, parse_special=False)
    assert EOS not in literal
    assert codec.detokenize(literal) == "<| endoftext |>"


def test_ids_become_text_again(codec):
    ids = codec.tokenize("Größe: naïve 😀!", add_special=False, parse_special=True)
    assert codec.detokenize(ids) == "größe : naïve 😀!"
    with pytest.raises(InvalidRequest, match="token id 99999 is not in the model's vocabulary"):
        codec.detokenize([99_999])


def test_offsets_are_in_the_text_as_it_was_sent(codec):
    text = "A  CAT,\nit's"
    ids, spans = codec.tokenize_with_offsets(text)
    assert (ids[0], ids[-1]) == (BOS, EOS)
    assert (spans[0], spans[-1]) == (None, None)
    words = "".join(text[slice(*span)] for span in spans if span is not None)
    assert words == "ACAT,it's"
