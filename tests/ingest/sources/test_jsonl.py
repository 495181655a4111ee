"""JSON Lines, plain and compressed."""

from __future__ import annotations

import bz2
import gzip
import json
import os

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources import documents
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.input_file import bounded_lines
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read, read_all, read_until_error, reasons, texts


def lines(n_rows: int) -> bytes:
    rows = ({"id": number, "text": f"text {number} ü", "tag": number % 3} for number in range(n_rows))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def compressed(codec: str):
    def compress(content: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(content)
        return sink.getvalue().to_pybytes()

    return compress


COMPRESSORS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": compressed("zstd"),
    "lz4": compressed("lz4"),
}


def test_rows_have_their_ids_texts_metadata_and_places(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(3))
    assert read_all(tmp_path / "a.jsonl", metadata=("tag",)) == [
        Document("0", "text 0 ü", '{"tag":0}', "a.jsonl:1"),
        Document("1", "text 1 ü", '{"tag":1}', "a.jsonl:2"),
        Document("2", "text 2 ü", '{"tag":2}', "a.jsonl:3"),
    ]


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_files_are_the_same_also_if_they_have_several_parts(tmp_path, ending):
    compress = COMPRESSORS[ending]
    (tmp_path / "a.jsonl").write_bytes(lines(5000))
    cut = lines(5000)[:70_001]
    (tmp_path / f"a.jsonl.{ending}").write_bytes(compress(cut) + compress(lines(5000)[70_001:]))
    plain = read_all(tmp_path / "a.jsonl")
    assert len(plain) == 5000
    found = read_all(tmp_path / f"a.jsonl.{ending}")
    assert [document[:3] for document in found] == [document[:3] for document in plain]
    assert found[-1].place == f"a.jsonl.{ending}:5000"


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_a_compressed_file_that_ends_too_early_gives_what_is_there_and_an_error(tmp_path, ending):
    whole = COMPRESSORS[ending](os.urandom(1_200_000).hex().encode().replace(b"00", b'\n{"text":"x"}\n'))
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(whole[: len(whole) // 2])
    found, error = read_until_error(path)
    assert isinstance(error, EngineFailure)
    assert len(found) > 1000
    assert error.message.startswith(f"a.jsonl.{ending} after {found[-1].place} cannot be read: ")


def test_a_file_that_is_not_what_its_ending_says_is_an_error_at_the_start(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(lines(3))
    with pytest.raises(EngineFailure, match=r"^a\.jsonl\.gz cannot be read: .*incorrect header"):
        open_source(str(tmp_path / "a.jsonl.gz"), SourceOptions())


def test_bad_lines_are_bad_rows_with_their_own_numbers_and_empty_lines_are_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'\xef\xbb\xbf{"text": "first"}\r\n'
        b"\n"
        b'{"text": "cut\n'
        b'["text"]\n'
        b"   \t\n"
        b'{"title": "no text"}\n'
        b'{"text": null}\n'
        b'{"text": 5}\n'
        b'{"text": "  "}\n'
        b'{"text": "\xff"}\n'
        b'{"text": "half \\ud83d"}\n'
        b'{"text": "t", "id": [1]}\n'
        b'null\n{"text": "last"}'
    )
    found = read_all(tmp_path / "a.jsonl", text_fields=("text",), id_field="id")
    assert [(each.place, each.text) for each in found if isinstance(each.text, str)] == [
        ("a.jsonl:1", "first"),
        ("a.jsonl:14", "last"),
    ]
    found_reasons = reasons(found)
    assert found_reasons.pop("a.jsonl:3").startswith("is not JSON: ")
    assert found_reasons.pop("a.jsonl:10").startswith("is not JSON: ")
    assert found_reasons.pop("a.jsonl:11").startswith("is not JSON: ")
    assert found_reasons == {
        "a.jsonl:4": "is a list, not a JSON object",
        "a.jsonl:6": "has no field 'text'",
        "a.jsonl:7": "'text' is null",
        "a.jsonl:8": "'text' is a number, not a string",
        "a.jsonl:9": "'text' is empty",
        "a.jsonl:12": "'id' is a list, not a string or an integer",
        "a.jsonl:13": "is of the type NoneType, not a JSON object",
    }


def test_a_row_with_a_bad_text_keeps_its_id(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "x", "text": ""}\n{"id": "y", "text": "t"}\n')
    assert [each.id for each in read_all(tmp_path / "a.jsonl")] == ["x", "y"]


def test_a_line_over_the_limit_is_a_bad_row_and_the_next_one_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(65):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"text": "after"}\n')
    found = read_all(path)
    assert texts(found) == ["before", BadRow("is longer than 64 MiB"), "after"]
    assert found[-1].place == "a.jsonl:3"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"abcd\nabcd", [b"abcd\n", b"abcd"]),
        (b"abcde\nx\n", [None, b"x\n"]),
        (b"abcde", [None]),
        (b"abcdefghij\n\nx", [None, b"\n", b"x"]),
    ],
)
def test_lines_are_bounded_in_bytes_without_their_end(tmp_path, content, expected):
    (tmp_path / "a").write_bytes(content)
    with (tmp_path / "a").open("rb") as file:
        assert list(bounded_lines(file, 4)) == expected


def test_a_batch_ends_early_if_its_texts_are_long(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_BATCH_CHARACTERS", 100)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "%s"}\n' % (b"x" * 60) * 5)
    source = open_source(str(tmp_path / "a.jsonl"), SourceOptions())
    assert [len(batch) for batch in source.batches(1000)] == [2, 2, 1]


def test_fields_are_found_in_the_first_rows_and_a_wrong_name_is_an_error_at_once(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"title": "x", "abstract": "y", "year": 1}\n' * 3)
    with pytest.raises(ConfigError) as error:
        open_source(str(tmp_path / "a.jsonl"), SourceOptions())
    assert "'title' (string), 'abstract' (string), 'year' (a number)" in error.value.message
    with pytest.raises(ConfigError, match=r"a\.jsonl has no field 'abstrakt' in its first rows"):
        open_source(str(tmp_path / "a.jsonl"), SourceOptions(text_fields=("abstrakt",)))
    found = read_all(tmp_path / "a.jsonl", text_fields=("title", "abstract"), metadata=("*",))
    assert found[0] == Document(None, "x\n\ny", '{"year":1}', "a.jsonl:1")


def test_metadata_of_a_row_are_those_that_it_has(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x", "a": 1, "b": [null]}\n{"text": "y", "c": {"d": 1}}\n')
    assert [each.metadata for each in read_all(tmp_path / "a.jsonl", metadata=("c", "a"))] == [
        '{"a":1}',
        '{"c":{"d":1}}',
    ]
    assert [each.metadata for each in read_all(tmp_path / "a.jsonl", metadata=("*",))] == [
        '{"a":1,"b":[null]}',
        '{"c":{"d":1}}',
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_a_file_without_rows_has_no_documents(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert read_all(tmp_path / "a.jsonl") == []


def test_a_file_of_which_all_lines_are_broken_is_read_to_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"nonsense\n" * 300)
    assert len(reasons(read_all(tmp_path / "a.jsonl"))) == 300


def test_one_array_is_an_error_that_says_how_to_convert_it(tmp_path):
    (tmp_path / "a.json").write_bytes(b' [{"text": "x"}]')
    with pytest.raises(ConfigError, match=r"jq -c '\.\[\]' a\.json > a\.jsonl"):
        open_source(str(tmp_path / "a.json"), SourceOptions())
    (tmp_path / "b.json").write_bytes(b'{"text": "x"}\n')
    assert texts(read_all(tmp_path / "b.json")) == ["x"]


def test_it_can_be_read_again_and_left_in_the_middle(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(1000))
    source = open_source(str(tmp_path / "a.jsonl"), SourceOptions())
    whole = read(source, 7)
    half = source.batches(10)
    next(half)
    assert 0 < source.share_read() <= 1
    half.close()
    assert read(source, 100) == whole
    source.close()
    source.close()


def test_the_share_grows_with_the_bytes_of_a_compressed_file(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(60_000), 1))
    source = open_source(str(tmp_path / "a.jsonl.gz"), SourceOptions())
    assert source.share_read() == 0
    shares = [source.share_read() for _ in source.batches(2000)]
    assert shares == sorted(shares)
    assert len(set(shares)) > 5
    assert shares[len(shares) // 2] == pytest.approx(0.5, abs=0.15)
