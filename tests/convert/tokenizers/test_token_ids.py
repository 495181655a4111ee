"""llama.cpp gives the original tokenizer's ids with a converted vocabulary."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest
from tokenizers import Tokenizer

from tests.convert.tokenizers.references import (
    TEXTS,
    LlamaVocabulary,
    in_llama,
    read_plan,
    reference_tokenizers,
)

NAMES = tuple(reference_tokenizers())


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def joined_to_roberta_mask(text: str) -> str:
    return text.replace(" <mask>", "<mask>")


def joined_to_bert_mask(text: str) -> str:
    return text.replace(" [MASK]", "[MASK]")


def plain_next_line(text: str) -> str:
    return text.replace("\x85", " ")


KNOWN_DIFFERENCES = {
    # llama.cpp's BPE does not compose characters
    ("modernbert", "decomposed"): composed,
    ("modernbert", "korean_decomposed"): composed,
    ("qwen3_embedding", "decomposed"): composed,
    ("qwen3_embedding", "korean_decomposed"): composed,
    ("qwen35", "decomposed"): composed,
    ("qwen35", "korean_decomposed"): composed,
    # the mask token takes the space before it along (lstrip); llama.cpp knows that of a few models by name
    ("roberta", "mask_after_space"): joined_to_roberta_mask,
    ("modernbert", "mask_after_space"): joined_to_bert_mask,
    # WhitespaceSplit splits at U+0085, SentencePiece's rules and llama.cpp do not
    ("xlm_roberta", "no_break_spaces"): plain_next_line,
    ("xlm_roberta", "controls"): plain_next_line,
}
"""(tokenizer, text) → what to do to the text for llama.cpp to make the original's ids."""

HANGUL_BY_CLUSTER = {("xlm_roberta", "korean_decomposed"), ("xlm_roberta_replace", "korean_decomposed")}
"""The `tokenizers` package applies SentencePiece's rules to short clusters of characters only."""


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    loaded: dict[str, LlamaVocabulary] = {}
    opened = []
    for name, reference in reference_tokenizers().items():
        folder = tmp_path_factory.mktemp(name)
        context = in_llama(read_plan(folder, reference), folder / "vocabulary.gguf")
        loaded[name] = context.__enter__()
        opened.append(context)
    yield loaded
    for context in opened:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_original(vocabularies, name):
    expected = reference_tokenizers()[name]["ids"]
    excused = {text for tokenizer, text in {*KNOWN_DIFFERENCES, *HANGUL_BY_CLUSTER} if tokenizer == name}
    found = {key: vocabularies[name].encode(text) for key, text in TEXTS.items()}
    assert {key for key in TEXTS if found[key] != expected[key]} == excused
    assert len(TEXTS) - len(excused) > 30


@pytest.mark.parametrize(("name", "key"), KNOWN_DIFFERENCES)
def test_a_known_difference_has_the_cause_we_name(vocabularies, name, key):
    remedied = KNOWN_DIFFERENCES[name, key](TEXTS[key])
    assert vocabularies[name].encode(remedied) == reference_tokenizers()[name]["ids"][key]


@pytest.mark.parametrize(("name", "key"), sorted(HANGUL_BY_CLUSTER))
def test_decomposed_hangul_gets_the_ids_of_composed(vocabularies, name, key):
    vocabulary = vocabularies[name]
    assert vocabulary.encode(TEXTS[key]) == vocabulary.encode(composed(TEXTS[key]))


def random_text(source: random.Random) -> str:
    """Words and characters of the texts, and any others, with white space that is easy to get wrong between them."""
    words = [word for text in TEXTS.values() for word in text.split(" ")]
    spaces = (" ", "  ", "\n", "\n\n", "\t", " \n ", "\r\n", "'s", "'LL", "1", "23", "4567", "▁")
    parts = [
        source.choice((source.choice(words), source.choice(spaces), chr(source.randint(1, 0xD7FF))))
        for _ in range(source.randint(1, 25))
    ]
    return composed("".join(parts)).replace("\x85", " ").replace("<mask>", "").replace("[MASK]", "")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("xlm")])
def test_random_texts_get_the_ids_of_the_original(vocabularies, name):
    original = Tokenizer.from_str(json.dumps(reference_tokenizers()[name]["tokenizer.json"]))
    source = random.Random(name)
    texts = [random_text(source) for _ in range(300)]
    wrong = [text for text in texts if vocabularies[name].encode(text) != original.encode(text).ids]
    assert wrong == []


def without_clusters(text: str) -> str:
    """Without marks that join the character before: the two packages' rules differ there."""
    return "".join(c for c in text if not unicodedata.category(c).startswith("M") and c != "\u200d")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("xlm")])
def test_random_texts_without_joined_characters_get_the_ids_of_the_original(vocabularies, name):
    original = Tokenizer.from_str(json.dumps(reference_tokenizers()[name]["tokenizer.json"]))
    source = random.Random(name)
    texts = [without_clusters(random_text(source)) for _ in range(300)]
    wrong = [text for text in texts if vocabularies[name].encode(text) != original.encode(text).ids]
    assert wrong == []


@pytest.mark.parametrize("name", NAMES)
def test_without_special_tokens_only_the_text_is_left(vocabularies, name):
    original = Tokenizer.from_str(json.dumps(reference_tokenizers()[name]["tokenizer.json"]))
    expected = original.encode(TEXTS["plain"], add_special_tokens=False).ids
    assert vocabularies[name].encode(TEXTS["plain"], add_special=False) == expected
