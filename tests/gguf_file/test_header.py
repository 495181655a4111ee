"""A GGUF's header: what is read from it, and one clear line for each kind of damage."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest

from gguf_embed.engines.llama.api import llama
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import constants as gguf_types
from gguf_embed.gguf_file.facts import (
    check_can_embed,
    context_length,
    file_type_name,
    has_rank_head,
    pooling_type,
    vocabulary_size,
)
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.gguf_models import TINY_VOCABULARY, write_tiny_decoder, write_tiny_encoder


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def string_entry(key: str, value: str) -> bytes:
    return text(key) + struct.pack("<I", 8) + text(value)


def uint_entry(key: str, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def tensor(name: str, *shape: int, kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_bytes(entries: list[bytes], tensors: list[bytes] = [], data: bytes = b"", version: int = 3) -> bytes:  # noqa: B006
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


ARCHITECTURE = string_entry("general.architecture", "bert")
TOKENS = text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")


def test_header_of_an_encoder(tmp_path):
    header = read_header(write_tiny_encoder(tmp_path / "m.gguf", n_ctx=48, outtype="f16"))
    assert (header.version, header.architecture, header.size_bytes) == (3, "bert", (tmp_path / "m.gguf").stat().st_size)
    assert (file_type_name(header), pooling_type(header), context_length(header)) == ("F16", Pooling.MEAN, 48)
    assert vocabulary_size(header) == len(TINY_VOCABULARY)
    assert "tokenizer.ggml.tokens" not in header.metadata
    assert not has_rank_head(header)
    check_can_embed(header)


def test_tensors_are_where_gguf_itself_finds_them(tmp_path):
    path = write_tiny_encoder(tmp_path / "m.gguf", outtype="q8_0")
    header = read_header(path)
    reference = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert header.tensors.keys() == reference.keys()
    for name, found in header.tensors.items():
        expected = reference[name]
        assert found.shape == tuple(int(n) for n in expected.shape)
        assert found.type == expected.tensor_type.name
        assert (header.data_start + found.offset, found.size_bytes) == (expected.data_offset, expected.n_bytes)


def test_header_of_a_decoder(tmp_path):
    header = read_header(write_tiny_decoder(tmp_path / "m.gguf"))
    assert (header.architecture, pooling_type(header)) == ("qwen3", Pooling.LAST)
    check_can_embed(header)


@pytest.mark.parametrize("pooling", [*Pooling, None])
def test_every_declared_pooling_is_read(tmp_path, pooling):
    assert pooling_type(read_header(write_tiny_encoder(tmp_path / "m.gguf", pooling=pooling))) is pooling


def test_a_rank_head_is_seen(tmp_path):
    assert has_rank_head(read_header(write_tiny_encoder(tmp_path / "m.gguf", rank_head=True)))


def test_type_tables_agree_with_the_gguf_package():
    for kind in gguf.GGMLQuantizationType:
        assert gguf_types.TENSOR_TYPES[kind.value] == (kind.name, *gguf.GGML_QUANT_SIZES[kind])
    for kind in gguf.LlamaFileType:
        if kind is not gguf.LlamaFileType.GUESSED:
            assert gguf_types.FILE_TYPES[kind.value] == kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
    for pooling, number in gguf_types.POOLING_NUMBERS.items():
        assert gguf.PoolingType[pooling.name] == number
    assert gguf_types.POOLING_NUMBERS.keys() == set(Pooling)


def test_vocabulary_types_are_those_of_llama_cpp():
    for family in gguf_types.VocabularyType:
        assert getattr(llama, f"LLAMA_VOCAB_TYPE_{family.name}") == family


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + b"x" * 40, "is a zip archive"),
        (b"GGU", "is a short text"),
        (b"\x01\x02\x03\x04" * 200, "is not a GGUF file"),
        (b"GGUF", "is truncated"),
        (b"GGUF" + struct.pack(">I", 3) + b"\0" * 16, "big-endian"),
        (gguf_bytes([ARCHITECTURE], version=1), "version 1, supported are 2 and 3"),
        (gguf_bytes([ARCHITECTURE], version=9), "version 9"),
        (gguf_bytes([]), "no general.architecture"),
        (gguf_bytes([uint_entry("general.architecture", 1)]), "no general.architecture"),
        (gguf_bytes([ARCHITECTURE])[:40], "truncated: its header"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", 8, 8)], b"\0" * 255), r"tensors need 384 bytes, the file has 383"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 0), "truncated"),
        (gguf_bytes([struct.pack("<Q", 2**62) + b"x" * 50]), "truncated"),
        (gguf_bytes([text("k") + struct.pack("<IIQ", 9, 4, 2**60)]), "truncated"),
        (gguf_bytes([text("k") + struct.pack("<IIQ", 9, 8, 2**60)]), "truncated"),
        (gguf_bytes([text("k") + struct.pack("<IIQQ", 9, 8, 100, 2**63) + b"\0" * 8]), "truncated"),
        (gguf_bytes([text("k") + struct.pack("<IIQ", 9, 9, 1)]), "unknown value type 9"),
        (gguf_bytes([text("k") + struct.pack("<I", 77)]), "unknown value type 77"),
        (gguf_bytes([ARCHITECTURE, ARCHITECTURE]), "occurs twice"),
        (gguf_bytes([ARCHITECTURE, uint_entry("general.alignment", 0)]), "general.alignment is 0"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", 1), tensor("a", 1)]), "'a' occurs twice"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", *([1] * 9))]), "has 9 dimensions"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", 1, kind=999)]), "unknown type 999"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", 2**63, 2**63)]), "is truncated: its tensors need"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", 1, offset=2**64 - 32)]), "is truncated: its tensors need"),
    ],
)
def test_broken_files_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as caught:
        read_header(path)
    assert "broken.gguf" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("n_bytes", [4, 12, 30, 100, 1000, 4000, -1])
def test_a_real_file_cut_anywhere_is_truncated(tmp_path, n_bytes):
    path = write_tiny_encoder(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ModelFileError, match="truncated"):
        read_header(path)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"no-model\.gguf: no such file"):
        read_header(tmp_path / "no-model.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_header(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_header(tmp_path / "file" / "m.gguf")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf_bytes([string_entry("general.architecture", "clip")]), "projector or an image tower"),
        (gguf_bytes([ARCHITECTURE, string_entry("general.type", "mmproj")]), "mmproj"),
        (gguf_bytes([ARCHITECTURE, string_entry("general.type", "adapter")]), "LoRA adapter"),
        (gguf_bytes([string_entry("general.architecture", "wavtokenizer-dec"), TOKENS]), "'wavtokenizer-dec' cannot"),
        (gguf_bytes([string_entry("general.architecture", "t5"), TOKENS]), "t5encoder"),
        (gguf_bytes([ARCHITECTURE, TOKENS]), r"no tensors.*\(bert\)"),
        (gguf_bytes([ARCHITECTURE], [tensor("a", 8)], b"\0" * 32), "no vocabulary"),
    ],
)
def test_files_that_cannot_embed_are_refused_by_what_they_are(tmp_path, content, message):
    with pytest.raises(ModelFileError, match=message):
        check_can_embed(read_header(write(tmp_path / "m.gguf", content)))


def test_a_pooling_without_meaning_is_refused(tmp_path):
    content = gguf_bytes([ARCHITECTURE, uint_entry("bert.pooling_type", 9)])
    with pytest.raises(ModelFileError, match="pooling_type is 9"):
        pooling_type(read_header(write(tmp_path / "m.gguf", content)))


@pytest.mark.parametrize(
    ("entries", "name"),
    [
        ([], "Q8_0"),
        ([uint_entry("general.file_type", 15)], "Q4_K_M"),
        ([uint_entry("general.file_type", 1031)], "Q8_0"),
    ],
)
def test_file_type_is_declared_or_the_one_of_most_weights(tmp_path, entries, name):
    tensors = [tensor("a", 8), tensor("b", 8, offset=32), tensor("c", 64, 4, kind=8, offset=64)]
    content = gguf_bytes([ARCHITECTURE, *entries], tensors, b"\0" * 512)
    assert file_type_name(read_header(write(tmp_path / "m.gguf", content))) == name


def test_a_further_part_of_a_split_model_needs_no_architecture(tmp_path):
    part = gguf_bytes([text("split.no") + struct.pack("<IH", 2, 1)])
    assert read_header(write(tmp_path / "m.gguf", part)).architecture == ""
