"""The offsets that we compute for llama.cpp's tokens are those of the original tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from gguf_embed.engines.llama import vocabulary as _llama_vocabulary
from gguf_embed.preprocessing.tokenizers import LlamaTokenizer
from gguf_embed.tokenization.offsets import trim
from tests.convert.tokenizers.references import (
    TEXTS,
    LlamaVocabulary,
    in_llama,
    read_plan,
    reference_tokenizers,
)
from tests.convert.tokenizers.test_token_ids import random_text

MAX_CHARACTERS = 3000


class VocabularyOnly:
    """As much of an engine as a tokenizer needs."""

    def __init__(self, vocabulary: LlamaVocabulary, unk_id: int | None) -> None:
        self._vocabulary = vocabulary
        self._unk_id = unk_id

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return self._vocabulary.encode(text, add_special=add_special)

    def token_bytes(self, token: int) -> bytes:
        return _llama_vocabulary.token_bytes(self._vocabulary._vocab, token)

    def vocabulary(self) -> Any:
        return SimpleNamespace(unk_id=self._unk_id)


def compare(text: str, original: Tokenizer, ours: LlamaTokenizer) -> Counter[str]:
    """How many of a text's own tokens are told where the original tells them; none where the ids differ."""
    encoding = original.encode(text)
    ids, spans = ours.encode_with_offsets(text)
    if ids != encoding.ids:
        return Counter()
    count: Counter[str] = Counter()
    originals = zip(encoding.tokens, encoding.offsets, encoding.special_tokens_mask, strict=True)
    for span, (token, offset, special) in zip(spans, originals, strict=True):
        start, end = trim(text, *offset)
        if special or token == "▁" or not text[start:end].strip():  # of a space alone it tells the letter after it
            continue
        if span is None:
            count["not told"] += 1
        elif span == (start, end):
            count["same"] += 1
        else:
            count["overlapping" if span[0] < end and start < span[1] else "elsewhere"] += 1
    return count


@pytest.mark.parametrize("name", tuple(reference_tokenizers()))
def test_places_are_those_of_the_original(tmp_path, name):
    reference, random = reference_tokenizers()[name], Random(5)
    original = Tokenizer.from_str(json.dumps(reference["tokenizer.json"]))
    by_bytes = original.token_to_id("<unk>") is None
    texts = [text for text in TEXTS.values() if text and len(text) <= MAX_CHARACTERS]
    with in_llama(read_plan(tmp_path, reference), tmp_path / "vocabulary.gguf") as vocabulary:
        ours = LlamaTokenizer(VocabularyOnly(vocabulary, original.token_to_id("<unk>")))  # type: ignore[arg-type]
        count = Counter[str]()
        for text in [*texts, *(random_text(random) for _ in range(100))]:
            count += compare(text, original, ours)
    assert count["elsewhere"] == 0
    assert count["same"] > 2000
    # a small vocabulary of whole characters knows little of random text: a run of unknown ones has no places
    assert count["same"] >= count.total() * (0.999 if by_bytes else 0.85)
