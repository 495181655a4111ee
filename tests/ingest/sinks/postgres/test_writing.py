"""PostgreSQL with pgvector, against the real server: its index, several writers, and failures."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from gguf_embed.errors import Unavailable
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import stored_ids
from tests.ingest.sinks.sample_rows import MANIFEST, numbered, rows, vectors

pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pytestmark = pytest.mark.ingest


class TestWriters:
    def test_several_writers_of_the_same_rows_neither_lock_each_other_out_nor_double_them(self, url, sink):
        ids = numbered(400)
        failures: list[BaseException] = []
        start = threading.Barrier(3)

        def write(seed: int) -> None:
            own = open_sink(url)
            random = np.random.default_rng(seed)
            try:
                start.wait()
                for _ in range(12):
                    chosen = [ids[i] for i in random.permutation(400)]
                    own.write(rows(chosen, seed=seed))
                    own.delete(chosen[:50])
            except BaseException as error:
                failures.append(error)
            finally:
                own.close()

        threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        sink.write(rows(ids))
        assert stored_ids(sink) == set(ids)

    def test_rows_are_read_while_others_are_deleted(self, sink):
        sink.write(rows(numbered(50)))
        for batch in sink.stored():
            sink.delete(batch.column("id").to_pylist()[:20])
        assert sink.count() == 30


class TestIndex:
    def test_it_is_built_at_the_end_and_used(self, server, table, sink):
        matrix = vectors(3_000, seed=4)
        sink.prepare("after")
        sink.write(rows(numbered(3_000), matrix=matrix))
        sink.finish("after")
        assert self.indexes(server, table) == [f"{table}_embedding_hnsw"]
        with server.connect() as connection:
            connection.execute("set enable_seqscan = off")
            plan = connection.execute(
                f"explain select id from {table} order by embedding <=> '{matrix[0].tolist()}' limit 5"
            ).fetchall()
        assert "_embedding_hnsw" in str(plan)
        hits = sink.search(matrix[17], 300)
        assert (hits[0].id, len(hits)) == ("doc-17#0", 300)

    def test_more_rows_than_the_index_can_find_are_all_found(self, sink):
        sink.write(rows(numbered(2_500)))
        sink.finish("after")
        assert len(sink.search(vectors(1, 5)[0], 2_000)) == 2_000

    @pytest.mark.parametrize("choice", ["keep", "none"])
    def test_without_asking_for_it_it_is_neither_built_nor_dropped(self, server, table, sink, choice):
        sink.write(rows(numbered(10)))
        sink.finish(choice)
        assert self.indexes(server, table) == []
        sink.finish("after")
        note = sink.prepare(choice)
        assert f"{table}_embedding_hnsw" in note
        assert "drop it, or use --index after" in note
        sink.write(rows(numbered(10)))
        sink.finish(choice)
        assert self.indexes(server, table) == [f"{table}_embedding_hnsw"]

    def test_its_own_is_dropped_when_much_is_written_and_built_again(self, server, table, sink):
        sink.finish("after")
        assert "dropped after 2,000 rows" in sink.prepare("after")
        sink.write(rows(numbered(100)))
        sink.write(rows(numbered(2_000, first=100)))
        assert self.indexes(server, table) == [f"{table}_embedding_hnsw"]
        sink.write(rows(numbered(10, first=5_000)))
        assert self.indexes(server, table) == []
        sink.finish("after")
        assert self.indexes(server, table) == [f"{table}_embedding_hnsw"]

    def test_that_of_another_is_left_alone(self, server, table, sink):
        with server.connect() as connection:
            connection.execute(f"create index theirs on {table} using ivfflat (embedding vector_l2_ops)")
        assert "theirs on its vectors" in sink.prepare("after")
        sink.write(rows(numbered(2_500)))
        sink.write(rows(numbered(10)))
        sink.finish("after")
        assert self.indexes(server, table) == ["theirs"]

    @pytest.mark.parametrize(
        ("width", "note", "kinds"),
        [(2_001, "half precision", ["halfvec_cosine_ops"]), (4_001, "no index", [])],
    )
    def test_wide_vectors(self, url, server, table, width, note, kinds):
        sink = open_sink(url)
        sink.create(replace(MANIFEST, dimensions=width))
        assert note in sink.prepare("after")
        matrix = vectors(20, 3, width)
        sink.write(rows(numbered(20), matrix=matrix))
        sink.finish("after")
        with server.connect() as connection:
            definitions = connection.execute(f"select indexdef from pg_indexes where tablename = '{table}'").fetchall()
        assert [kind for kind in ["halfvec_cosine_ops"] if kind in str(definitions)] == kinds
        hits = sink.search(matrix[3], 20)
        assert (hits[0].id, hits[0].score) == ("doc-3#0", pytest.approx(1, abs=1e-6))
        sink.close()

    def indexes(self, server, table: str) -> list[str]:
        with server.connect() as connection:
            found = connection.execute(
                f"select indexname from pg_indexes where tablename = '{table}' and indexname not like '%_pkey'"
            ).fetchall()
        return [name for (name,) in found]


class TestFailures:
    def test_a_lost_connection_names_the_server(self, server, sink):
        with server.connect() as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() "
                "and application_name <> 'other' and backend_type = 'client backend'"
            )
        with pytest.raises(Unavailable, match=r"PostgreSQL at 127\.0\.0\.1 is lost"):
            sink.write(rows(numbered(3)))
        with pytest.raises(Unavailable, match="is lost"):
            sink.count()

    def test_a_killed_server_has_all_that_was_acknowledged(self, server, url, sink):
        for first in range(0, 1_000, 100):
            sink.write(rows(numbered(100, first=first)))
        sink.flush()
        server.kill()
        with pytest.raises(Unavailable):
            sink.write(rows(numbered(3)))
        server.start()
        again = open_sink(url)
        assert stored_ids(again) == set(numbered(1_000))
        again.close()
