"""PostgreSQL with pgvector, against the real server."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, row_schema
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import Place, SinkContract
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows, vectors
from tests.ingest.sinks.servers import free_port

pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pytestmark = pytest.mark.ingest


class TestContract(SinkContract):
    @pytest.fixture
    def place(self, server, table, url) -> Place:
        def read() -> pa.Table:
            with server.connect() as connection:
                found = connection.execute(f"select * from {table}").fetchall()
            names = ["id", *METADATA_KEYS, "embedding"]
            listed = [dict(zip(names, row, strict=True)) for row in found]
            for row in listed:
                row.update(metadata=json.dumps(row["metadata"]), embedding=json.loads(row["embedding"]))
            return pa.Table.from_pylist(listed, row_schema(N_DIMS))

        def put_foreign() -> None:
            with server.connect() as connection:
                connection.execute(f"create table {table} (id bigint primary key, embedding vector({N_DIMS}))")

        return Place(url, read, put_foreign)


class TestAddresses:
    def test_a_unix_socket_works(self, server, table, sink):
        sink.write(rows(numbered(3)))
        other = open_sink(f"postgresql:///postgres?host={server.folder}&port={server.port}&user=postgres&table={table}")
        assert other.manifest() == MANIFEST
        assert other.count() == 3
        other.close()

    def test_a_table_may_be_in_a_schema_and_have_an_odd_name(self, server):
        with server.connect() as connection:
            connection.execute('create schema if not exists "My App"')
        sink = open_sink(server.url("My%20App.the%20%22docs%22"))
        assert sink.manifest() is None
        sink.create(MANIFEST)
        sink.write(rows(numbered(3)))
        sink.delete(["doc-1#0"])
        sink.finish("after")
        assert (sink.manifest(), sink.count()) == (MANIFEST, 2)
        assert sink.search(vectors(1, 0)[0], 1)[0].id == "doc-0#0"
        assert 'the "docs"' in sink.name
        sink.close()

    def test_a_schema_that_is_missing_is_named(self, server):
        sink = open_sink(server.url("nowhere.docs"))
        assert sink.manifest() is None
        with pytest.raises(EngineFailure, match='schema "nowhere" does not exist'):
            sink.create(MANIFEST)
        sink.close()

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgresql://me:s3cret@127.0.0.1:{closed}/app", r"127\.0\.0\.1.*refused"),
            ("postgresql://me:s3cret@no-such-host.invalid/app", r"no-such-host\.invalid"),
        ],
    )
    def test_a_server_that_does_not_answer_is_unavailable(self, url, message):
        with pytest.raises(Unavailable, match=message) as caught:
            open_sink(url.format(closed=free_port()))
        assert "s3cret" not in caught.value.message
        assert "\n" not in caught.value.message

    @pytest.mark.parametrize(
        ("user", "database", "message"),
        [
            ("postgres:s3cret", "nope", 'database "nope" does not exist'),
            ("nobody_known:s3cret", "postgres", 'role "nobody_known" does not exist'),
            ("postgres:s3cret", "bare", "database bare at 127.0.0.1 lacks pgvector.*CREATE EXTENSION vector"),
        ],
    )
    def test_what_the_server_refuses_is_a_wrong_setting(self, server, user, database, message):
        with pytest.raises(ConfigError, match=message) as caught:
            open_sink(server.url("docs", database, user))
        assert "s3cret" not in caught.value.message

    @pytest.mark.parametrize("name", ["", "app.", "50%25", "é" * 32])
    def test_a_name_that_no_table_can_have(self, server, name):
        with pytest.raises(ConfigError, match="a table of PostgreSQL cannot be called"):
            open_sink(server.url(name))

    def test_the_longest_name_that_a_table_can_have(self, server):
        sink = open_sink(server.url("é" * 31 + "x"))
        sink.create(MANIFEST)
        sink.finish("after")
        assert sink.manifest() == MANIFEST
        assert "has the index" in sink.prepare("keep")
        sink.close()

    def test_an_unknown_option_is_named(self, server):
        with pytest.raises(ConfigError, match="nonsense"):
            open_sink(server.url("docs&nonsense=1"))


class TestTables:
    def test_a_changed_table_is_refused(self, server, table, url, sink):
        with server.connect() as connection:
            connection.execute(f"alter table {table} alter column embedding type vector(3)")
        again = open_sink(url)
        with pytest.raises(ConfigError, match=rf"embedding is vector\(3\).*vector\({N_DIMS}\)"):
            again.manifest()
        again.close()

    def test_a_dropped_table_is_made_again_with_another_manifest(self, server, table, url, sink):
        with server.connect() as connection:
            connection.execute(f"drop table {table}")
        again = open_sink(url)
        assert again.manifest() is None
        again.create(replace(MANIFEST, ingest_id="other"))
        assert again.manifest().ingest_id == "other"
        again.close()

    def test_a_table_is_made_once(self, url, sink):
        other = open_sink(url)
        with pytest.raises(EmbedError, match="already exists"):
            other.create(replace(MANIFEST, ingest_id="other"))
        assert other.manifest() == MANIFEST
        other.close()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"text": "a\0b"}, "0x00"),
            ({"metadata": '{"a": "\\u0000"}'}, "Unicode"),
            ({"metadata": "{"}, "json"),
            ({"embedding": [float("nan")] * N_DIMS}, "NaN"),
        ],
    )
    def test_a_row_that_it_cannot_store_is_an_error_and_stores_nothing(self, sink, change, message):
        listed = rows(numbered(4)).to_pylist()
        listed[2] |= change
        with pytest.raises(EngineFailure, match=message) as caught:
            sink.write(pa.RecordBatch.from_pylist(listed, row_schema(N_DIMS)))
        assert "\n" not in caught.value.message
        assert sink.count() == 0
        sink.write(rows(numbered(4)))
        assert sink.count() == 4
