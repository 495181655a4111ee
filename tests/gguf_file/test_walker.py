"""Header, strings and layout are read by one walker: they agree about the same file."""

from __future__ import annotations

import struct
import time

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.layout import read_layout, read_numbers
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.gguf_file.walker import TruncatedHeader, open_walker
from tests.gguf_file.test_header import ARCHITECTURE, gguf_bytes, string_entry, tensor, text, uint_entry

WORDS = [b"the", b"caf\xc3\xa9", b"\xff", b"\xfe", b""]
TOKENS = "tokenizer.ggml.tokens"


def strings_entry(key: str, words: list[bytes]) -> bytes:
    items = b"".join(struct.pack("<Q", len(word)) + word for word in words)
    return text(key) + struct.pack("<IIQ", 9, 8, len(words)) + items


def floats_entry(key: str, values: list[float]) -> bytes:
    return text(key) + struct.pack(f"<IIQ{len(values)}f", 9, 6, len(values), *values)


@pytest.fixture
def path(tmp_path):
    scores = [float(n) for n in range(100)]
    entries = [
        ARCHITECTURE,
        floats_entry("scores", scores),
        strings_entry("merges", [b"a b"] * 100),
        strings_entry(TOKENS, WORDS),
        uint_entry("last", 7),
    ]
    found = tmp_path / "m.gguf"
    found.write_bytes(gguf_bytes(entries, [tensor("a", 8)], b"\0" * 32))
    return found


def test_bytes_that_are_not_utf8_are_replaced_or_kept_apart(path):
    assert read_strings(path, TOKENS) == ["the", "café", "\ufffd", "\ufffd", ""]
    assert read_strings(path, TOKENS, errors="surrogateescape") == ["the", "café", "\udcff", "\udcfe", ""]


def test_a_missing_array_of_strings_is_empty(path):
    assert read_strings(path, "other") == []


@pytest.mark.parametrize("key", ["scores", "last", "general.architecture"])
def test_anything_but_an_array_of_strings_is_refused_by_its_key(path, key):
    with pytest.raises(ModelFileError, match=rf"m\.gguf: {key}"):
        read_strings(path, key)


def test_layout_covers_every_byte_of_the_header(path):
    header, layout = read_header(path), read_layout(read_header(path))
    assert list(layout.entries) == ["general.architecture", "scores", "merges", TOKENS, "last"]
    ends = [24, *(entry.end for entry in layout.entries.values())]
    assert [entry.begin for entry in layout.entries.values()] == ends[:-1]
    assert layout.tensors == ends[-1]
    assert layout.tensors_end <= header.data_start < layout.tensors_end + 32
    lengths = {key: entry.n_items for key, entry in layout.entries.items() if entry.type == 9}
    assert lengths == header.array_lengths


def test_numbers_are_read_where_the_layout_has_them(path):
    assert read_numbers(path, read_layout(read_header(path)).entries["scores"]).tolist() == list(range(100))


@pytest.mark.parametrize("n_bytes", [0, 10, 23, 60, 200, 700])
def test_a_file_that_shrank_after_its_check_is_an_error_that_names_it(path, n_bytes):
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(ModelFileError, match=r"m\.gguf cannot be read again"):
        read_layout(header)
    with pytest.raises(ModelFileError, match=r"m\.gguf cannot be read again"):
        read_strings(path, TOKENS)


def test_lengths_beyond_64_bits_in_sum_do_not_wrap(tmp_path):
    lengths = struct.pack("<QQ", 2**63, 2**63)
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes([string_entry("a", "b"), text("k") + struct.pack("<IIQ", 9, 8, 100) + lengths]))
    with pytest.raises(ModelFileError, match="truncated"):
        read_header(path)
    with pytest.raises(ModelFileError, match="cannot be read again"):
        read_strings(path, "k")


def lists_of(n_strings: int, key: str = "k") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text(key) + struct.pack("<IIQ", 9, 8, n_strings)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (lists_of(2**33), "a list has 8589934592 strings, the limit is 8388608"),
        (lists_of(2**62), "is truncated"),
        (lists_of(1) + struct.pack("<Q", 2**36), "its header has over 268,435,456 bytes, which is the limit"),
        (lists_of(1) + struct.pack("<Q", 2**62), "is truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**40), "occurs twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "occurs twice"),
    ],
)
def test_a_header_that_would_not_end_is_refused_in_time(tmp_path, head, problem):
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(128 * 2**30)
    started_s = time.monotonic()
    with pytest.raises(ModelFileError, match=problem):
        read_header(path)
    assert time.monotonic() - started_s < 1


def test_a_long_header_is_read_in_a_few_steps(tmp_path):
    words = [f"word {number}".encode() * (number % 7) for number in range(100_000)]
    path = tmp_path / "long.gguf"
    path.write_bytes(gguf_bytes([ARCHITECTURE, strings_entry(TOKENS, words)], [tensor("a", 8)], b"\0" * 32))
    assert read_header(path).array_lengths == {TOKENS: len(words)}
    assert read_strings(path, TOKENS) == [word.decode() for word in words]


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path):
    words = [b"word"] * 50_000
    path = tmp_path / "cut.gguf"
    path.write_bytes(gguf_bytes([ARCHITECTURE, strings_entry(TOKENS, words)], [tensor("a", 8)], b"\0" * 32))
    with open_walker(path) as walker, path.open("r+b") as file:
        file.truncate(1000)
        walker.version(), walker.count(), walker.count()
        walker.skip_value(walker.entry())
        with pytest.raises(TruncatedHeader):
            walker.skip_value(walker.entry())
