"""Tests of the URLs of sinks."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.open import OPENERS, SinkUrl, open_sink, parse_url


@pytest.mark.parametrize(
    ("text", "scheme", "path", "table"),
    [
        ("parquet:vectors", "parquet", "vectors", "documents"),
        ("parquet:/data/vectors", "parquet", "/data/vectors", "documents"),
        ("lancedb:///data/lance?table=notes", "lancedb", "/data/lance", "notes"),
        ("lance:docs.lance", "lancedb", "docs.lance", "documents"),
        ("SQLite:docs.db?table=my%20notes", "sqlite", "docs.db", "my notes"),
        ("duckdb:../a%20b.duckdb", "duckdb", "../a b.duckdb", "documents"),
        ("jsonl:größe.jsonl", "jsonl", "größe.jsonl", "documents"),
        ("null:", "null", "", "documents"),
    ],
)
def test_a_url_names_a_place_on_this_machine(text, scheme, path, table):
    assert parse_url(text) == SinkUrl(scheme, path, options={}, table=table)


def test_a_url_names_a_server():
    url = parse_url("pgvector://me:p%40ss@db.local:5433/app?table=docs&sslmode=require")
    assert (url.scheme, url.host, url.port, url.path) == ("postgresql", "db.local", 5433, "app")
    assert (url.user, url.password, url.table, url.option("sslmode")) == ("me", "p@ss", "docs", "require")
    assert "p@ss" not in str(url)
    assert "p%40ss" not in str(url)
    assert str(parse_url("sqlite:a.db?table=t")) == "sqlite:a.db?table=t"


def test_a_tilde_is_the_home_folder():
    assert parse_url("parquet:~/vectors").file == Path.home() / "vectors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vectors", "is not the URL of a sink: it begins with parquet, .*for example lancedb:"),
        ("lancdb:vectors?table=a", r"did you mean lancedb:vectors\?table=a\?"),
        ("s3:bucket", "is not the URL of a sink"),
        ("", "is not the URL of a sink"),
        ("parquet:", "names no file or folder: write it after the colon, as in parquet:vectors"),
        ("qdrant://host:port/docs", "cannot be read"),
        ("parquet://vectors", "names a host, and parquet writes to this machine: use parquet:vectors,"),
        ("lancedb://data/lance?table=a", "use lancedb:data/lance, or three slashes"),
        ("sqlite:a.db?tabel=x", "has no option 'tabel'"),
        ("jsonl://out.jsonl", "use jsonl:out.jsonl,"),
    ],
)
def test_a_url_that_names_no_sink_is_refused(text, message):
    if text.startswith("lancedb"):
        pytest.importorskip("lancedb")
    with pytest.raises(ConfigError, match=message):
        open_sink(text)


@pytest.mark.parametrize("scheme", ["parquet", "npy", "jsonl", "sqlite"])
def test_opening_makes_nothing(scheme, tmp_path):
    sink = open_sink(f"{scheme}:{tmp_path / 'new'}")
    assert (sink.manifest(), sink.count(), list(sink.stored())) == (None, 0, [])
    assert str(tmp_path / "new") in sink.name
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_every_scheme_is_named_where_one_is_unknown():
    with pytest.raises(ConfigError) as caught:
        parse_url("redis:x")
    assert all(scheme in caught.value.message for scheme in OPENERS)
