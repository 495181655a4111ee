"""A WordPiece vocabulary read from the file is the one that llama.cpp has after loading it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import vocabulary as vocabulary_module
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.vocabulary import has_wordpiece, read_wordpiece_vocabulary
from tests.gguf_models import TINY_VOCABULARY, write_tiny_decoder, write_tiny_encoder
from tests.wordpiece_files import Value, in_full, llama_codec, write_vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
ENTRIES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁the", "▁a▁b", "ing", "▁", "한", "é")
MANY = tuple(f"▁w{token}" for token in range(200))
GAP_NAMES = tuple(sorted(set().union(*vocabulary_module._SPECIAL_UNLESS_NAMED.values())))
FIXED_NAMES = tuple(sorted(vocabulary_module._ALWAYS_SPECIAL))


def check_equal(path: Path) -> None:
    """Vocabulary, pieces, and the text of random ids are llama.cpp's."""
    stored = read_wordpiece_vocabulary(read_header(path))
    with llama_codec(path) as codec:
        assert stored.vocabulary == in_full(codec.vocabulary())
        ids = range(len(stored.vocabulary.entries))
        assert [stored.piece(token) for token in ids] == [codec.token_bytes(token) for token in ids]


def test_the_default_model(default_model):
    check_equal(default_model)


@pytest.mark.parametrize("name", ["encoder.gguf", "reranker.gguf", "bare.gguf"])
def test_tiny_models(models, name):
    check_equal(models / name)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"bos_token_id": 2, "eos_token_id": 3, "seperator_token_id": 3, "unknown_token_id": 1, "padding_token_id": 0},
        {"mask_token_id": 4, "cls_token_id": 5, "unknown_token_id": 1},
        {"bos_token_id": 10_000, "unknown_token_id": 10_000, "padding_token_id": 10_000, "eos_token_id": 10_000},
        {"add_bos_token": False, "add_eos_token": True, "add_sep_token": False},
        {"add_bos_token": True, "add_eos_token": False, "add_sep_token": True, "add_space_prefix": True},
        {"normalizer_lowercase": True, "normalizer_strip_accents": False},
        {"normalizer_lowercase": False},
        {"pre": "qwen2"},
        {"fim_pad_token_id": 4, "prefix_token_id": 10_000},
    ],
)
@pytest.mark.parametrize("entries", [ENTRIES, MANY], ids=["few", "many"])
def test_keys_that_the_file_has_or_lacks(tmp_path, entries: Sequence[str], keys: Mapping[str, Value]):
    check_equal(write_vocabulary(tmp_path / "m.gguf", entries, **keys))


@pytest.mark.parametrize("kind", [0, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, 7, -1])
def test_types_decide_which_entries_are_spelled_out(tmp_path, kind):
    check_equal(write_vocabulary(tmp_path / "m.gguf", ENTRIES, [kind] * len(ENTRIES)))


@pytest.mark.parametrize("kind", [NORMAL, CONTROL, USER_DEFINED, UNUSED])
@pytest.mark.parametrize("keys", [{}, {"fim_pad_token_id": 0}, {"fim_pre_token_id": 10_000}], ids=str)
def test_names_that_llama_cpp_takes_for_special_tokens(tmp_path, kind, keys):
    for name in GAP_NAMES:  # one by one, because several of one role depend on the order of a hash table
        entries = (*FIXED_NAMES, "▁[unused1]", "[unused2]", name, "▁the")
        check_equal(write_vocabulary(tmp_path / "m.gguf", entries, [kind] * len(entries), **keys))


def test_odd_entries(tmp_path):
    entries = [
        b"",
        b"\xff",
        b"\xf0\xe2\x96\x81",
        b"\xed\xa0\x80x",
        b"a\0b",
        b"\0",
        "▁é".encode(),
        b"\xe2\x96",
        b"[PAD]",
    ]
    check_equal(write_vocabulary(tmp_path / "m.gguf", entries))
    check_equal(write_vocabulary(tmp_path / "m.gguf", entries, [CONTROL] * len(entries)))


def test_random_vocabularies(tmp_path):
    source = random.Random(3)
    for _ in range(30):
        words = {"".join(source.choices("▁ab [']?.é", k=source.randint(0, 5))) or "x" for _ in range(80)}
        entries = source.sample(sorted(words), len(words))
        types = source.choices([0, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED], k=len(entries))
        ids = {
            f"{name}_token_id": source.randrange(120)
            for name in ("bos", "eos", "seperator", "unknown", "padding", "mask")
            if source.random() < 0.7
        }
        check_equal(write_vocabulary(tmp_path / "m.gguf", entries, types, **ids))


def test_numbers_of_types_are_those_of_gguf():
    assert [int(kind) for kind in gguf.TokenType] == [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE]
    module = vocabulary_module
    named = (module._NORMAL, module._UNKNOWN, module._CONTROL, module._USER_DEFINED, module._BYTE)
    assert named == (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE)


def test_a_byte_entry_is_refused_where_llama_cpp_would_end_the_process(tmp_path):
    path = write_vocabulary(tmp_path / "m.gguf", ENTRIES, [NORMAL, BYTE, *[NORMAL] * (len(ENTRIES) - 2)])
    with pytest.raises(ModelFileError, match=r"m\.gguf: entry 1 of its WordPiece vocabulary has the type 6 \(byte\)"):
        read_wordpiece_vocabulary(read_header(path))


def test_another_kind_of_vocabulary_is_refused_with_the_way_out(tmp_path):
    path = write_tiny_decoder(tmp_path / "decoder.gguf")
    assert not has_wordpiece(read_header(path))
    with pytest.raises(ModelFileError, match=r"decoder\.gguf: its vocabulary is of the kind 'gpt2', .*with llama\.cpp"):
        read_wordpiece_vocabulary(read_header(path))


def test_missing_and_short_lists_are_refused(tmp_path):
    assert has_wordpiece(read_header(write_vocabulary(tmp_path / "m.gguf", ())))
    with pytest.raises(ModelFileError, match=r"m\.gguf has no vocabulary"):
        read_wordpiece_vocabulary(read_header(tmp_path / "m.gguf"))
    write_vocabulary(tmp_path / "m.gguf", ENTRIES, [NORMAL] * 3)
    with pytest.raises(ModelFileError, match=r"m\.gguf: tokenizer\.ggml\.token_type has 3 items for 10 entries"):
        read_wordpiece_vocabulary(read_header(tmp_path / "m.gguf"))
    write_vocabulary(tmp_path / "m.gguf", ENTRIES, token_type=1)
    with pytest.raises(ModelFileError, match=r"m\.gguf: tokenizer\.ggml\.token_type is not a list of 32-bit integers"):
        read_wordpiece_vocabulary(read_header(tmp_path / "m.gguf"))


def test_a_file_that_changed_since_its_header_was_read_is_named(tmp_path):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    header = read_header(path)
    assert len(read_wordpiece_vocabulary(header).vocabulary.entries) == len(TINY_VOCABULARY)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelFileError, match=r"m\.gguf cannot be read again"):
        read_wordpiece_vocabulary(header)
