"""Parquet files."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.sources import parquet
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read, read_all, read_until_error, reasons, texts

NO_UTF8 = pa.Array.from_buffers(
    pa.string(),
    2,
    [None, pa.py_buffer(b"\x00\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00"), pa.py_buffer(b"ok\xff\xfe")],
)


@pytest.fixture
def write(tmp_path):
    def write(columns, name: str = "a.parquet", **options) -> str:
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, tmp_path / name, **options)
        return str(tmp_path / name)

    return write


def test_rows_have_numbers_as_ids_and_row_numbers_as_places(write):
    path = write({"id": [5, 6, None], "text": ["a", "b", "c"], "n": [1.5, None, float("nan")]}, row_group_size=2)
    assert read_all(path, metadata=("n",)) == [
        Document("5", "a", '{"n":1.5}', "a.parquet:1"),
        Document("6", "b", '{"n":null}', "a.parquet:2"),
        Document(None, "c", '{"n":null}', "a.parquet:3"),
    ]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["007", ""]), ["007", None]),
        (pa.array([2**63, 0], pa.uint64()), [str(2**63), "0"]),
        (pa.array([7.0, None]), ["7", None]),
        (pa.array([Decimal("7"), None]), ["7", None]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (
            pa.array([b"0123456789abcdef"] * 2, pa.binary(16)).cast(pa.uuid()),
            ["30313233-3435-3637-3839-616263646566"] * 2,
        ),
    ],
)
def test_ids_of_many_types(write, ids, expected):
    assert [each.id for each in read_all(write({"id": ids, "text": ["x", "y"]}))] == expected


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
def test_texts_of_all_types_of_strings(write, kind):
    column = pa.array(["ü\U0001f600", None, " ", "x"]).cast(kind)
    found = read_all(write({"text": column}))
    assert texts(found)[::3] == ["ü\U0001f600", "x"]
    assert reasons(found) == {"a.parquet:2": "'text' is null", "a.parquet:3": "'text' is empty"}


def test_several_text_fields_are_joined(write):
    path = write({"title": ["t", None, None], "body": ["b", "c", None]})
    found = read_all(path, text_fields=("title", "body"))
    assert texts(found)[:2] == ["t\n\nb", "c"]
    assert reasons(found) == {"a.parquet:3": "'title' is null"}


def test_a_bad_id_makes_a_bad_row(write):
    found = read_all(write({"id": [1.5, 2.0], "text": ["a", "b"]}))
    assert reasons(found) == {"a.parquet:1": "'id' is 1.5, not a string or an integer"}
    assert found[1][:2] == ("2", "b")


def test_a_string_that_is_not_utf8_is_a_bad_row(write):
    found = read_all(write({"text": NO_UTF8}))
    assert texts(found)[0] == "ok"
    assert reasons(found) == {"a.parquet:2": "'text' is not UTF-8"}


def test_metadata_of_all_types_become_json(write):
    moment = datetime(2026, 1, 2, 3, 4, 5, 678)
    columns = {
        "text": ["x"],
        "time": pa.array([1_000_000_001], pa.timestamp("ns")),
        "times": pa.array([[{"at": 1_000_000_001}]], pa.list_(pa.struct({"at": pa.timestamp("ns")}))),
        "moment": pa.array([moment], pa.timestamp("us", "Europe/Berlin")),
        "blob": pa.array([b"\xff"]),
        "vector": pa.array([[1.0, float("nan")]], pa.list_(pa.float32(), 2)),
        "struct": pa.array([{"a": 1, "b": None}]),
        "category": pa.array(["c"]).dictionary_encode(),
        "price": pa.array([Decimal("1.10")]),
        "long": pa.array([1], pa.duration("ns")),
    }
    found = read_all(write(columns, store_schema=True), metadata=("*",))
    assert found[0].metadata == (
        '{"time":"1970-01-01T00:00:01","times":[{"at":"1970-01-01T00:00:01"}],'
        '"moment":"2026-01-02T04:04:05.000678+01:00","blob":"/w==","vector":[1.0,null],"struct":{"a":1,"b":null},'
        '"category":"c","price":"1.10","long":"0:00:00"}'
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text_fields": ("n",)},
            "the field 'n' of a.parquet is int64, not a string: it has 'n' (int64), 'b' (binary)",
        ),
        ({"text_fields": ("x",)}, "a.parquet has no field 'x': it has 'n' (int64), 'b' (binary)"),
        ({}, "a.parquet has no field with strings: it has 'n' (int64), 'b' (binary)"),
    ],
)
def test_a_text_must_be_a_column_of_strings(write, options, message):
    path = write({"n": [1], "b": [b"x"]})
    with pytest.raises(ConfigError) as error:
        open_source(path, SourceOptions(**options))
    assert error.value.message == message


def test_names_with_dots_are_columns(write):
    assert read_all(write({"a.text": ["x"], "a": [1], "id": ["i"]}), text_fields=("a.text",), metadata=("a",)) == [
        Document("i", "x", '{"a":1}', "a.parquet:1")
    ]


def test_batches_are_small_if_rows_are_long(write, monkeypatch):
    path = write({"text": [f"{number}" + "x" * 1000 for number in range(100)], "unread": ["y" * 9000] * 100})
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 10_500)
    source = open_source(path, SourceOptions(text_fields=("text",)))
    assert {len(batch) for batch in source.batches(1000)} == {10}


def test_it_can_be_read_again_and_left_in_the_middle(write):
    source = open_source(write({"text": [f"t{number}" for number in range(1000)]}), SourceOptions())
    assert source.share_read() == 0
    half = source.batches(250)
    next(half)
    assert source.share_read() == 0.25
    half.close()
    whole = read(source, 7)
    assert len(whole) == 1000
    assert read(source, 333) == whole
    source.close()
    source.close()


def test_an_empty_file_has_no_documents(write):
    assert read_all(write(pa.table({"text": pa.array([], pa.string())}))) == []


def test_what_is_not_parquet_is_an_error_at_the_start(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(EngineFailure, match=r"^a\.parquet cannot be read: "):
        open_source(str(tmp_path / "a.parquet"), SourceOptions())


def test_a_damaged_file_gives_what_is_there_and_an_error(write, tmp_path):
    path = write({"text": [f"text {number}" for number in range(50_000)]}, row_group_size=10_000, use_dictionary=False)
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(3).column(0).data_page_offset
    content[start : start + 2000] = b"\xff" * 2000
    (tmp_path / "a.parquet").write_bytes(content)
    found, error = read_until_error(path)
    assert isinstance(error, EngineFailure)
    assert len(found) == 30_000
    assert error.message.startswith("a.parquet after row 30000 cannot be read: ")
