"""CSV and TSV."""

from __future__ import annotations

import gzip

import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.rows import BadRow
from gguf_embed.ingest.sources import delimited
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read_all, read_until_error, reasons, texts


def test_every_value_stays_the_text_that_it_is(tmp_path):
    (tmp_path / "a.csv").write_text("id,text,year,price\n007,a,2024,1.50\n1e3,b,,x\n", encoding="utf-8-sig")
    assert read_all(tmp_path / "a.csv", metadata=("*",)) == [
        Document("007", "a", '{"year":"2024","price":"1.50"}', "a.csv:2"),
        Document("1e3", "b", '{"year":"","price":"x"}', "a.csv:3"),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,text\n1,one\n2,two\n"),
        ("a.csv", "id;text\r\n1;one\r\n2;two"),
        ("a.csv", "id\ttext\n1\tone\n2\ttwo\n"),
        ("a.tsv", "id\ttext\n1\tone\n2\ttwo\n"),
        ("a.csv.gz", "id,text\n1,one\n2,two\n"),
        ("a.tsv.gz", "id\ttext\n1\tone\n2\ttwo\n"),
        ("a.csv", '\n\n"id","text"\n\n"1","one"\n\n"2","two"\n\n'),
    ],
)
def test_dialects(tmp_path, name, content):
    encoded = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(encoded) if name.endswith("gz") else encoded)
    assert [(each.id, each.text) for each in read_all(tmp_path / name)] == [("1", "one"), ("2", "two")]


def test_values_with_quotes_commas_and_lines_are_whole_and_their_place_is_the_first_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,"a, ""b""\r\n\nc"\n2,5" pipe\n')
    assert read_all(tmp_path / "a.csv") == [
        Document("1", 'a, "b"\r\n\nc', "{}", "a.csv:2"),
        Document("2", '5" pipe', "{}", "a.csv:5"),
    ]


def test_rows_that_do_not_fit_are_bad_rows_with_a_reason(tmp_path):
    (tmp_path / "a.csv").write_bytes(
        b'id,text\n1,good\n2\n3,x,y\n4,\n5,\xff\xfe\n6,"two \xff\nlines"\n7,"x"y\n8,  \n,no id\n9,good\n'
    )
    found = read_all(tmp_path / "a.csv")
    assert [(each.id, each.text) for each in found if isinstance(each.text, str)] == [
        ("1", "good"),
        (None, "no id"),
        ("9", "good"),
    ]
    assert reasons(found) == {
        "a.csv:3": "has 1 columns, the header has 2",
        "a.csv:4": "has 3 columns, the header has 2",
        "a.csv:5": "'text' is empty",
        "a.csv:6": "is not UTF-8",
        "a.csv:7": "is not UTF-8",
        "a.csv:9": "is not CSV: ',' expected after '\"'",
        "a.csv:10": "'text' is empty",
    }


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        ("id,a,b", {}, "which field of a.csv is the text? Name it, or several; it has 'id', 'a', 'b'"),
        ("id,text", {"text_fields": ("body",)}, "a.csv has no field 'body': it has 'id', 'text'"),
        ("id,text", {"metadata": ("url",)}, "a.csv has no field 'url': it has 'id', 'text'"),
        ("id,text,text", {}, "a.csv has 2 fields named 'text': rename all but one of them"),
        ("id,\xff", {}, "the header of a.csv is not UTF-8"),
        ('"id"x,text', {}, "the header of a.csv is not CSV: ',' expected after '\"'"),
    ],
)
def test_a_header_without_the_field_is_an_error_that_names_those_there(tmp_path, header, options, message):
    (tmp_path / "a.csv").write_bytes(f"{header}\n1,x,y\n".encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        open_source(str(tmp_path / "a.csv"), SourceOptions(**options))
    assert error.value.message == message


@pytest.mark.parametrize("content", ["", "\n", "id,text\n"])
def test_a_file_without_rows_has_no_documents(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    assert read_all(tmp_path / "a.csv") == []


def test_a_quote_that_is_never_closed_ends_reading_because_it_swallows_the_rest(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,one\n2,"two\n3,three\n4,four\n')
    found, error = read_until_error(tmp_path / "a.csv")
    assert texts(found) == ["one"]
    assert isinstance(error, EngineFailure)
    assert error.message == "a.csv:3 opens a quote that is never closed"


def test_values_may_be_longer_than_the_csv_module_takes_by_default_but_not_without_bound(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(f'id,text\n1,{"x" * 200_000}\n2,"{"y" * 99}\n{"z" * 2_000_000}"\n3,three\n')
    assert [len(text) for text in texts(read_all(tmp_path / "a.csv"))] == [200_000, 2_000_100, 5]
    before = delimited.csv.field_size_limit(1_000_000)
    try:
        monkeypatch.setattr(delimited, "MAX_VALUE_CHARACTERS", 1_000_000)
        found, error = read_until_error(tmp_path / "a.csv")
    finally:
        delimited.csv.field_size_limit(before)
    assert len(found) == 1
    assert error.message.startswith("a.csv:3 has a value of more than")


def test_a_line_over_the_limit_is_a_bad_row(tmp_path, monkeypatch):
    lines = delimited.bounded_lines
    monkeypatch.setattr(delimited, "bounded_lines", lambda stream: lines(stream, 20))
    (tmp_path / "a.csv").write_text(f"id,text\n1,{'x' * 50}\n2,two\n")
    assert texts(read_all(tmp_path / "a.csv")) == [BadRow("is longer than 64 MiB"), "two"]
