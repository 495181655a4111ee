"""From a location to a source; folders of files with rows."""

from __future__ import annotations

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read, read_all, read_until_error, texts


@pytest.fixture
def rows(tmp_path):
    """A folder with a file of each kind, and what is not one."""
    folder = tmp_path / "rows"
    (folder / "part").mkdir(parents=True)
    (folder / "b.jsonl").write_text('{"id": "1", "text": "one"}\n')
    (folder / "a.csv").write_text("id,text\n007,zero\n")
    (folder / "part" / "x.jsonl.gz").write_bytes(gzip.compress(b'{"id": "2", "text": "two"}\n'))
    pq.write_table(pa.table({"id": [3], "text": ["three"]}), folder / "part" / "y.parquet")
    (folder / ".hidden.jsonl").write_text("x")
    (folder / "_SUCCESS").write_text("")
    (folder / "package.json").write_text("{}")
    return folder


def test_files_with_rows_are_read_one_after_the_other(rows):
    assert read_all(rows) == [
        Document("007", "zero", "{}", "a.csv:2"),
        Document("1", "one", "{}", "b.jsonl:1"),
        Document("2", "two", "{}", "part/x.jsonl.gz:1"),
        Document("3", "three", "{}", "part/y.parquet:1"),
    ]


def test_one_kind_can_be_chosen(rows):
    assert texts(read_all(f"jsonl:{rows}")) == ["one", "two"]
    assert texts(read_all(f"parquet:{rows}")) == ["three"]
    with pytest.raises(ConfigError, match=r"has no files that end in \.md, "):
        open_source(f"text:{rows}", SourceOptions())


def test_documents_beside_rows_have_to_be_chosen(rows):
    (rows / "README.md").write_text("read me")
    with pytest.raises(ConfigError, match=rf"both documents and files of rows .*text:{rows} or csv:{rows}"):
        open_source(str(rows), SourceOptions())
    assert texts(read_all(f"text:{rows}")) == ["read me"]
    assert texts(read_all(f"csv:{rows}")) == ["zero"]


def test_the_share_of_a_folder_counts_bytes(tmp_path):
    for name, n_rows in (("a.jsonl", 3000), ("b.jsonl", 1000)):
        (tmp_path / name).write_text('{"text": "some text"}\n' * n_rows)
    source = open_source(str(tmp_path), SourceOptions())
    assert source.share_read() == 0
    shares = [source.share_read() for _ in source.batches(1000)]
    assert shares == sorted(shares)
    assert shares[2] == pytest.approx(0.75)
    assert read(source, 10) == read(source, 2000)
    source.close()
    source.close()


def test_an_error_in_a_later_file_names_it_and_comes_after_the_rows_before(rows):
    (rows / "part" / "y.parquet").write_bytes(b"nothing")
    found, error = read_until_error(rows)
    assert texts(found) == ["zero", "one", "two"]
    assert isinstance(error, EngineFailure)
    assert error.message.startswith("part/y.parquet cannot be read: ")


def test_a_later_file_without_the_field_names_it(rows):
    (rows / "part" / "z.csv").write_text("id,body\n1,x\n")
    found, error = read_until_error(rows, text_fields=("text",))
    assert len(found) == 4
    assert error.message == "part/z.csv has no field 'text': it has 'id', 'body'"


def test_a_wrong_field_of_the_first_file_is_an_error_at_the_start(rows):
    with pytest.raises(ConfigError, match=r"a\.csv has no field 'body'"):
        open_source(str(rows), SourceOptions(text_fields=("body",)))


def test_a_prefix_says_what_a_file_without_an_ending_is(tmp_path):
    (tmp_path / "export").write_text('{"text": "x"}\n')
    assert texts(read_all(f"jsonl:{tmp_path / 'export'}")) == ["x"]
    assert texts(read_all(f"csv:{tmp_path / 'export'}")) == []
    assert texts(read_all(f"text:{tmp_path / 'export'}")) == ['{"text": "x"}\n']


def test_a_file_whose_name_has_a_colon_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jsonl:a.jsonl").write_text('{"text": "x"}\n')
    assert texts(read_all("jsonl:a.jsonl")) == ["x"]


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    assert texts(read_all("~/a.jsonl")) == ["x"]


@pytest.mark.parametrize(
    ("location", "options", "message"),
    [
        ("nowhere", {}, "there is no file or folder nowhere"),
        ("jsonl:nowhere", {}, "there is no file or folder nowhere"),
        ("mongodb://host/db", {}, "there is no file or folder mongodb:"),
        ("data.xlsx", {}, r"^data\.xlsx has none of the endings \.jsonl, .*jsonl:data\.xlsx$"),
        ("data.parquet.gz", {}, "has none of the endings"),
        ("empty", {}, r"^empty has no files that end in \.jsonl, .*\.htm$"),
        ("parquet:empty", {}, r"^empty has no files that end in \.parquet, \.pq$"),
        ("pipe", {}, "^pipe is not a file: pipe it into standard input, whose name is -$"),
        ("a.csv", {"query": "select 1"}, "^a query needs a database"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path, monkeypatch, location, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.xlsx").write_bytes(b"")
    (tmp_path / "data.parquet.gz").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=message):
        open_source(location, SourceOptions(**options))


def test_a_file_that_may_not_be_opened_is_an_error(tmp_path, monkeypatch):
    if os.geteuid() == 0:
        pytest.skip("root may open all files")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x"}))
    (tmp_path / "a.jsonl").chmod(0)
    with pytest.raises(EngineFailure, match=r"^a\.jsonl cannot be read: Permission denied$"):
        open_source(str(tmp_path / "a.jsonl"), SourceOptions())
