"""Tests of the sink in LanceDB."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import Place, SinkContract
from tests.ingest.sinks.sample_rows import MANIFEST, by_id, numbered, rows, vectors

lancedb = pytest.importorskip("lancedb")


class TestLance(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        folder = tmp_path / "new" / "lance"

        def read() -> pa.Table:
            return lancedb.connect(folder).open_table("notes").to_arrow()

        def put_foreign() -> None:
            lancedb.connect(folder).create_table("notes", pa.table({"id": ["a"], "embedding": [[1.0, 2.0]]}))

        return Place(f"lancedb:{folder}?table=notes", read, put_foreign)


@pytest.fixture
def url(tmp_path):
    return f"lancedb:{tmp_path / 'lance'}?table=notes"


def made(url: str):
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.prepare("after")
    return sink


def test_asking_what_is_there_makes_no_folder(url, tmp_path):
    sink = open_sink(url)
    assert (sink.manifest(), sink.count(), sink.search(vectors(1, 0)[0], 3)) == (None, 0, [])
    sink.close()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_lance_does_not_take_is_refused(tmp_path):
    sink = open_sink(f"lancedb:{tmp_path / 'lance'}?table=my notes")
    with pytest.raises(ConfigError, match="my notes"):
        sink.create(MANIFEST)
    sink.close()


def test_the_id_is_the_primary_key_so_that_other_programs_can_merge(url, tmp_path):
    made(url).close()
    table = lancedb.connect(tmp_path / "lance").open_table("notes")
    assert table.schema.field("id").metadata == {b"lance-schema:unenforced-primary-key": b"true"}


def test_one_job_at_a_time_writes_to_a_table(url):
    first = made(url)
    first.write(rows(numbered(3)))
    second = open_sink(url)
    assert second.manifest() == MANIFEST
    with pytest.raises(ConfigError, match=r"process \d+ is writing to LanceDB table notes"):
        second.write(rows(numbered(3)))
    first.flush()
    first.close()
    second.write(rows(numbered(5)))
    second.flush()
    assert second.count() == 5
    second.close()


def test_small_batches_are_stored_together(url, tmp_path):
    sink = made(url)
    for first in range(0, 100, 10):
        sink.write(rows(numbered(10, first=first)))
    sink.flush()
    table = lancedb.connect(tmp_path / "lance").open_table("notes")
    assert (table.count_rows(), table.stats()["fragment_stats"]["num_fragments"]) == (100, 1)
    sink.close()


def test_an_index_is_built_for_many_rows_only_and_finds_the_neighbours(url, monkeypatch):
    monkeypatch.setattr("gguf_embed.ingest.sinks.lance.ROWS_FOR_INDEX", 600)
    matrix = vectors(900, seed=1)
    written = rows(numbered(900), matrix=matrix)
    sink = made(url)
    sink.write(written.slice(0, 500))
    sink.finish("after")
    assert sink._table.list_indices() == []
    sink.write(written.slice(500))
    sink.finish("after")
    assert [index.columns for index in sink._table.list_indices()] == [["embedding"]]
    cosines = matrix @ matrix[70]
    hits = sink.search(matrix[70], 10)
    assert [hit.id for hit in hits] == [f"doc-{i}#0" for i in np.argsort(-cosines)[:10]]
    assert [hit.score for hit in hits] == pytest.approx(np.sort(cosines)[:-11:-1].tolist(), abs=1e-5)
    sink.prepare("none")
    assert sink._table.list_indices() == []
    sink.close()


def test_a_long_run_merges_its_small_files(url, monkeypatch):
    monkeypatch.setattr("gguf_embed.ingest.sinks.lance.COMMITS_PER_CLEANUP", 5)
    sink = made(url)
    for first in range(0, 100, 10):
        sink.write(rows(numbered(10, first=first)))
        sink.flush()
    assert sink._table.stats()["fragment_stats"]["num_fragments"] == 1
    assert by_id(sink.stored()).keys() == set(numbered(100))
    sink.close()
