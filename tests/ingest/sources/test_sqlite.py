"""SQLite files."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pytest

from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sources.reading import Document, read, read_all, read_until_error, reasons, texts


@pytest.fixture
def database(tmp_path) -> Path:
    path = tmp_path / "my notes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            create table notes (id integer primary key, text text, tag text, score real, data blob);
            insert into notes values (3, 'three', 'x', 1.5, x'ff'), (1, 'one', null, null, null);
            insert into notes values (2, null, 'y', 2, null);
            create table "odd ""name" (word text, line text);
            insert into "odd ""name" values ('b', 'first'), ('a', 'second');
            create table words (word text primary key, text text) without rowid;
            insert into words values ('b', 'bee'), ('a', 'ay');
            create view shown as select word as id, line as text from "odd ""name" order by rowid;
            create view no_ids as select line as text from "odd ""name";
            create table mixed (id, text);
            insert into mixed values (1, 5), (2, 'two'), (3, x'00ff'), (4, cast(x'ff' as text));
            insert into mixed values (x'00', 'x'), (null, 'y');
            create table empty (a, text);
        """)
        connection.commit()
    return path


def test_a_table_is_read_in_order_of_its_key(database):
    assert read_all(f"sqlite:{database}?table=notes", metadata=("tag", "score", "data")) == [
        Document("1", "one", '{"tag":null,"score":null,"data":null}', "notes:1"),
        Document("2", read_all(f"sqlite:{database}?table=notes", text_fields=("text",))[1].text, "{}", "notes:2"),
        Document("3", "three", '{"tag":"x","score":1.5,"data":"/w=="}', "notes:3"),
    ]


def test_a_null_text_is_a_bad_row(database):
    assert reasons(read_all(f"sqlite:{database}?table=notes", text_fields=("text",))) == {"notes:2": "'text' is null"}


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        ('odd "name', {"text_fields": ("line",)}, [(None, "first"), (None, "second")]),
        ("words", {}, [(None, "ay"), (None, "bee")]),
        ("words", {"id_field": "word"}, [("a", "ay"), ("b", "bee")]),
        ("shown", {}, [("a", "second"), ("b", "first")]),
        ("empty", {}, []),
    ],
)
def test_other_tables_have_an_order_too(database, table, options, expected):
    found = read_all(f"sqlite:{database}?table={quote(table)}", **options)
    assert [(each.id, each.text) for each in found] == expected


def test_a_query_keeps_its_own_order(database):
    query = "select id, text || '!' as text from notes where text is not null order by id desc; "
    expected = [Document("3", "three!", "{}", "query:1"), Document("1", "one!", "{}", "query:2")]
    assert read_all(f"sqlite:{database}", query=query) == expected
    assert read_all(f"sqlite:///{str(database)[1:]}?query={quote(query)}") == expected
    assert texts(read_all(f"sqlite:{database}", query="with t as (select 'x' as text) select * from t -- done")) == [
        "x"
    ]


def test_values_of_other_types_are_bad_rows_of_their_own(database):
    found = read_all(f"sqlite:{database}?table=mixed", text_fields=("text",))
    assert [(each.id, each.text) for each in found if isinstance(each.text, str)] == [("2", "two"), (None, "y")]
    assert reasons(found) == {
        "mixed:1": "'text' is a number, not a string",
        "mixed:3": "'text' is bytes, not a string",
        "mixed:4": "'text' is bytes, not a string",
        "mixed:5": "'id' is bytes, not a string or an integer",
    }


@pytest.mark.parametrize(
    ("rest", "options", "message"),
    [
        ("", {}, "names no table: add .table=NAME, or give a query"),
        ("?table=notes", {"query": "select 1"}, "names both a table and a query"),
        ("?table=nots", {}, "no such table: nots; it has empty, mixed, no_ids, notes, odd"),
        ("?table=no_ids", {}, "the view no_ids has no order: name the field with its ids, or give a query"),
        (
            "?table=notes",
            {"text_fields": ("body",)},
            "has no field 'body': it has 'id' \\(a number\\), 'text' \\(string\\)",
        ),
        ("?table=notes&x", {"text_fields": ("tag",), "id_field": "nr"}, "has no field 'nr'"),
        ("", {"query": "selct 1"}, "syntax error"),
        ("", {"query": "delete from notes"}, "syntax error"),
    ],
)
def test_what_cannot_be_read_is_an_error_at_the_start(database, rest, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_source(f"sqlite:{database}{rest}", SourceOptions(**options))
    assert "\n" not in error.value.message


def test_nothing_can_be_written(database):
    with pytest.raises(ConfigError):
        open_source(f"sqlite:{database}", SourceOptions(query="select * from notes); delete from notes; --"))
    assert len(read_all(f"sqlite:{database}?table=notes", text_fields=("text",))) == 3


def test_a_missing_file_is_not_created(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"there is no file here\.db"):
        open_source("sqlite:here.db?table=t", SourceOptions())
    (tmp_path / "there.db").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"there is no file /there\.db: write sqlite:there\.db for a relative path"):
        open_source("sqlite:///there.db?table=t", SourceOptions())
    assert not (tmp_path / "here.db").exists()


def test_what_is_no_database_is_an_error(tmp_path):
    (tmp_path / "a.db").write_bytes(b"text" * 1000)
    with pytest.raises(ConfigError, match="cannot be read: file is not a database"):
        open_source(f"sqlite:{tmp_path / 'a.db'}?table=t", SourceOptions())


def test_it_can_be_read_again_and_its_share_counts_rows(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("create table docs (text)")
        connection.executemany("insert into docs values (?)", ((f"text {number}",) for number in range(1000)))
        connection.commit()
    source = open_source(f"sqlite:{tmp_path / 'a.db'}?table=docs", SourceOptions())
    assert source.share_read() == 0
    shares = [source.share_read() for _ in source.batches(250)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.01)
    whole = read(source, 7)
    assert len(whole) == 1000
    half = source.batches(100)
    next(half)
    half.close()
    assert read(source, 300) == whole
    assert open_source(f"sqlite:{tmp_path / 'a.db'}", SourceOptions(query="select * from docs")).share_read() is None
    source.close()
    source.close()


def test_a_damaged_page_gives_what_is_there_and_an_error(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma page_size=4096")
        connection.execute("create table docs (id integer primary key, text)")
        connection.executemany("insert into docs values (?, ?)", ((n, f"{n} " + "x" * 900) for n in range(2000)))
        connection.commit()
    content = bytearray(path.read_bytes())
    content[4096 * 400 : 4096 * 401] = b"\xff" * 4096
    source = open_source(f"sqlite:{path}?table=docs", SourceOptions())
    path.write_bytes(content)
    found, error = read_until_error(f"sqlite:{path}", query="select id, text from docs where id < 5000")
    assert isinstance(error, EngineFailure)
    assert 500 < len(found) < 2000
    assert f"after row {len(found)} cannot be read: database disk image is malformed" in error.message
    source.close()
