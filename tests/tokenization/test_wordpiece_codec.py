"""The codec without llama.cpp: the original's ids, and the texts that llama.cpp makes of ids."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from gguf_embed.engines.base import ExactTokenizing, TextCodec
from gguf_embed.errors import InvalidRequest, ModelFileError
from gguf_embed.preprocessing.tokenizers import FileTokenizer, choose_tokenizer
from gguf_embed.tokenization import wordpiece_codec as module
from gguf_embed.tokenization.wordpiece import ExactWordPiece
from gguf_embed.tokenization.wordpiece_codec import WordPieceCodec, clean_spaces
from tests.gguf_models import CLS, SEP, write_tiny_encoder
from tests.wordpiece_files import llama_codec, wordpiece_codec, write_vocabulary

REFERENCE_TEXTS = [
    item["text"] for item in json.loads((Path(__file__).parent.parent / "data" / "reference_texts.json").read_text())
]
ODD_TEXTS = (
    *("", " ", "\n\t", "a", "[SEP]", "a [MASK] b", "[sep] [CLS][SEP]", "##ing", "▁the", "'s ' 's", "x" * 150),
    *("\0a\0", "\ud800", "a\udc00b", "\ud83d\ude80", "🚀👩‍🚀", "\u0301é", "\ufffd", "a\u200bb"),
    *("한국어", "हिन्दी", "中文", "İstanbul"),
)


@pytest.fixture(scope="module")
def ours(default_model) -> WordPieceCodec:
    return wordpiece_codec(default_model)


@pytest.fixture(scope="module")
def theirs(default_model) -> Iterator[TextCodec]:
    with llama_codec(default_model) as codec:
        yield codec


@pytest.fixture(scope="module")
def exact(theirs) -> ExactWordPiece:
    """What a model on llama.cpp is tokenized with."""
    found = choose_tokenizer(theirs, None, "auto")
    assert isinstance(found, ExactWordPiece)
    return found


@pytest.mark.parametrize("add_special", [True, False])
def test_ids_are_those_of_the_same_file_on_llama_cpp(ours, exact, add_special):
    for text in (*REFERENCE_TEXTS, *ODD_TEXTS):
        ids = ours.tokenize(text, add_special=add_special, parse_special=True)
        assert ids == exact.encode(text, add_special=add_special)


def test_both_protocols_give_the_same_ids_and_offsets(ours, exact):
    texts = [*REFERENCE_TEXTS, *ODD_TEXTS]
    assert ours.tokenize_batch(texts) == exact.encode_batch(texts)
    assert [ours.tokenize_with_offsets(text) for text in texts] == [exact.encode_with_offsets(text) for text in texts]
    as_exact: ExactTokenizing = ours
    assert isinstance(choose_tokenizer(ours, as_exact, "auto"), FileTokenizer)


@pytest.mark.parametrize("add_special", [True, False])
def test_unparsed_special_tokens_are_the_ids_of_llama_cpp_for_english(ours, theirs, add_special):
    for text in ("[SEP]", "a [MASK] b", "[CLS] hello [SEP]", "[PAD][PAD]", "no special token", "[UNK]", "", "a[sep]b"):
        settings = {"add_special": add_special, "parse_special": False}
        assert ours.tokenize(text, **settings) == theirs.tokenize(text, **settings)


def test_every_piece_is_llama_cpp_s(ours, theirs):
    assert ours.vocabulary().entries == tuple(theirs.vocabulary().entries)
    ids = range(len(ours.vocabulary().entries))
    assert [ours.token_bytes(token) for token in ids] == [theirs.token_bytes(token) for token in ids]


def test_the_text_of_each_id_alone_is_llama_cpp_s(ours, theirs):
    ids = range(len(ours.vocabulary().entries))
    assert [ours.detokenize([token]) for token in ids] == [theirs.detokenize([token]) for token in ids]


def test_the_text_of_real_texts_is_llama_cpp_s(ours, theirs):
    for text in (*REFERENCE_TEXTS, *ODD_TEXTS, "It 's 3 o ' clock , isn 't it ? We 're , they 'll , I 've ; ' ' ' ."):
        ids = ours.tokenize(text, add_special=True, parse_special=True)
        assert ours.detokenize(ids) == theirs.detokenize(ids)


def test_the_text_of_random_ids_is_llama_cpp_s(ours, theirs):
    source = random.Random(1)
    entries = ours.vocabulary().entries
    short = [
        token for token, entry in enumerate(entries) if entry.removeprefix("▁") in {*"?!.,'smtd", "re", "ve", "ll"}
    ]
    assert len(short) > 20
    for _ in range(3000):
        n_ids = source.randrange(12)
        ids = [source.choice(short) if source.random() < 0.7 else source.randrange(len(entries)) for _ in range(n_ids)]
        assert ours.detokenize(ids) == theirs.detokenize(ids), ids


def test_the_text_of_random_characters_is_llama_cpp_s(tmp_path):
    """Every sequence of spaces, punctuation and letters can be made of these entries."""
    entries = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"▁'?!.,smtdrelvx", " ", "한", "▁ '")
    ids = {"bos_token_id": 2, "seperator_token_id": 3, "unknown_token_id": 1}
    source = random.Random(2)
    for keys in (ids, ids | {"add_space_prefix": True}):
        path = write_vocabulary(tmp_path / "m.gguf", entries, **keys)
        ours = wordpiece_codec(path)
        with llama_codec(path) as theirs:
            for _ in range(5000):
                tokens = source.choices(range(4, len(entries)), k=source.randrange(10))
                assert ours.detokenize(tokens) == theirs.detokenize(tokens), tokens


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        (b"it 's here .", b"it's here."),
        (b"a  ? b", b"a ? b"),
        (b" . a", b". a"),
        (b"o ' clock", b"o'clock"),
        (b"a ' ' ' b", b"a'''b"),
        (b"isn 't he 'd we 'll", b"isn 't he 'd we 'll"),
        (b"we 're I 've I 'm", b"we're I've I'm"),
        (b"a 'r 'v '", b"a 'r 'v '"),
        (b"", b""),
    ],
)
def test_spaces_are_cleaned_as_documented(text, cleaned):
    assert clean_spaces(text) == cleaned


@pytest.mark.parametrize("token", [-1, 30522, 2**40])
def test_unknown_ids_are_refused_in_the_words_of_llama_cpp_s_codec(ours, theirs, token):
    refused = []
    for codec in (ours, theirs):
        for call in (codec.token_bytes, lambda token, codec=codec: codec.detokenize([5, token])):
            with pytest.raises(InvalidRequest) as caught:
                call(token)
            refused.append((caught.value.message, caught.value.param))
    assert refused == [(f"token id {token} is not in the model's vocabulary of 30522", "tokens")] * 4


def test_the_tokenizer_is_built_once_and_on_first_use(tmp_path, monkeypatch):
    built = []

    def build(vocabulary):
        built.append(vocabulary)
        return ExactWordPiece(vocabulary)

    monkeypatch.setattr(module, "ExactWordPiece", build)
    codec = wordpiece_codec(write_tiny_encoder(tmp_path / "m.gguf"))
    codec.detokenize([CLS, 5, SEP])
    assert built == []
    with ThreadPoolExecutor(8) as threads:
        texts = ["hello [SEP] world"] * 64
        found = list(threads.map(lambda text: codec.tokenize(text, add_special=True, parse_special=True), texts))
    assert found == [found[0]] * 64
    assert found[0].count(SEP) == 2
    assert len(built) == 1


@pytest.mark.parametrize("role", ["unk_id", "bos_id", "sep_id"])
def test_a_missing_special_token_is_told_at_once(tmp_path, role):
    codec = wordpiece_codec(write_tiny_encoder(tmp_path / "m.gguf"))
    incomplete = replace(codec.vocabulary(), eos_id=None, **{role: None})
    with pytest.raises(ModelFileError, match=r"has no (unknown|opening|closing) token"):
        WordPieceCodec(incomplete, lambda token: b"")


PROGRAM = """
import sys
from pathlib import Path
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.vocabulary import read_wordpiece_vocabulary
from gguf_embed.tokenization.wordpiece_codec import WordPieceCodec
stored = read_wordpiece_vocabulary(read_header(Path(sys.argv[1])))
codec = WordPieceCodec(stored.vocabulary, stored.piece, strips_first_space=stored.strips_first_space)
ids = codec.tokenize("hello world", add_special=True, parse_special=True)
assert codec.detokenize(ids) == "[CLS] hello world[SEP]", codec.detokenize(ids)
loaded = [name for name in sys.modules if name.split(".")[0] == "llama_cpp" or "engines.llama" in name]
assert loaded == [], loaded
"""


def test_it_works_without_importing_llama_cpp(models):
    subprocess.run([sys.executable, "-c", PROGRAM, models / "encoder.gguf"], check=True, timeout=60)
