"""Tests of the sink in an SQLite file."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EngineFailure, Unavailable
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import Place, SinkContract
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows


class TestSqlite(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        file = tmp_path / "new" / "docs.db"

        def read() -> pa.Table:
            with closing(sqlite3.connect(file)) as connection:
                connection.row_factory = sqlite3.Row
                found = [dict(row) for row in connection.execute('select * from "my ""notes"')]
            for row in found:
                row["embedding"] = np.frombuffer(row["embedding"], "<f4", N_DIMS)
            return pa.Table.from_pylist(found, schema=rows(["x"]).schema)

        def put_foreign() -> None:
            file.parent.mkdir()
            with closing(sqlite3.connect(file)) as connection:
                connection.execute('create table "my ""notes" (id text, embedding blob)')

        return Place(f'sqlite:{file}?table=my "notes', read, put_foreign)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:{tmp_path / 'docs.db'}"


def test_two_tables_of_one_file_have_manifests_of_their_own(url):
    for table, n in (("a", 3), ("b", 5)):
        sink = open_sink(f"{url}?table={table}")
        sink.create(MANIFEST)
        sink.write(rows(numbered(n)))
        sink.flush()
        sink.close()
    counts = []
    for table in ("a", "b"):
        sink = open_sink(f"{url}?table={table}")
        counts.append(sink.count())
        sink.close()
    assert counts == [3, 5]


def test_a_table_that_was_dropped_is_nothing_and_can_be_made_again(url, tmp_path):
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.close()
    with closing(sqlite3.connect(tmp_path / "docs.db")) as connection:
        connection.execute("drop table documents")
    again = open_sink(url)
    assert again.manifest() is None
    again.create(MANIFEST)
    assert again.count() == 0
    again.close()


def test_a_file_that_is_no_database_is_refused(url, tmp_path):
    (tmp_path / "docs.db").write_text("not a database, but long enough to look at" * 100)
    sink = open_sink(url)
    with pytest.raises(ConfigError, match="is not an SQLite database"):
        sink.manifest()
    sink.close()


def test_asking_what_is_there_makes_no_file(url, tmp_path):
    sink = open_sink(url)
    assert (sink.manifest(), sink.count(), sink.search(np.ones(3, np.float32), 3)) == (None, 0, [])
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_flush_survives_a_loss_of_power(url):
    """It is written through to the disk at each commit: "full" is 2."""
    sink = open_sink(url)
    sink.create(MANIFEST)
    assert sink._connect().execute("pragma synchronous").fetchone() == (2,)
    assert sink._connect().execute("pragma journal_mode").fetchone() == ("wal",)
    sink.close()


def test_rows_that_were_lost_on_a_full_disk_do_not_pass_as_flushed(url):
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.write(rows(numbered(5)))
    sink.flush()
    pages = sink._connect().execute("pragma page_count").fetchone()[0]
    sink._connect().execute(f"pragma max_page_count = {pages + 3}")  # "database or disk is full" beyond
    sink.write(rows(numbered(2, first=5)))
    with pytest.raises(EngineFailure, match="full"):
        sink.write(rows(numbered(2_000, first=7)))
    for call in (sink.flush, lambda: sink.write(rows(["more"]))):
        with pytest.raises(EngineFailure):
            call()
    sink.close()
    again = open_sink(url)
    assert again.count() == 5
    again.close()


def test_a_writer_that_waits_too_long_for_another_one_says_so(url, tmp_path, monkeypatch):
    monkeypatch.setattr("gguf_embed.ingest.sinks.sqlite.LOCK_WAIT_S", 0.05)
    made = open_sink(url)
    made.create(MANIFEST)
    made.close()
    with closing(sqlite3.connect(tmp_path / "docs.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        sink = open_sink(url)
        assert sink.count() == 0
        with pytest.raises(Unavailable, match="another process has been writing to the file"):
            sink.write(rows(numbered(1)))
        other.execute("rollback")
    sink.write(rows(numbered(1)))
    sink.close()
