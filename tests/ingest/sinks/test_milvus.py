"""Milvus: Lite in process on a file, and its real server."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, row_schema
from gguf_embed.ingest.sinks import milvus
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import ROOT, Place, SinkContract, stored_ids
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows, vectors
from tests.ingest.sinks.servers import free_port, milvus_server

pytestmark = pytest.mark.ingest

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def pymilvus():
    pytest.importorskip("milvus_lite")
    return pytest.importorskip("pymilvus")


@pytest.fixture(scope="module")
def server_port(pymilvus, tmp_path_factory):
    port = free_port()
    with milvus_server(tmp_path_factory.mktemp("milvus"), port):
        yield port


def as_table(client, collection: str) -> pa.Table:
    client.load_collection(collection)
    found = client.query(collection, filter="", output_fields=["id", *METADATA_KEYS, "embedding"], limit=10_000)
    listed = [{**row, "metadata": json.dumps(row["metadata"])} for row in found]
    return pa.Table.from_pylist(listed, row_schema(N_DIMS))


def read_elsewhere(url: str) -> str:
    """How many different ids another process finds, or its error."""
    script = (
        "import sys; from gguf_embed.ingest.sinks.open import open_sink; from gguf_embed.errors import EmbedError\n"
        "try: print(len({id_ for batch in open_sink(sys.argv[1]).stored() for id_ in batch['id'].to_pylist()}))\n"
        "except EmbedError as error: print(error)"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


class TestFile(SinkContract):
    @pytest.fixture
    def place(self, pymilvus, tmp_path) -> Place:
        from milvus_lite.server_manager import server_manager_instance

        file = str(tmp_path / "docs.db")

        def read() -> pa.Table:
            client = pymilvus.MilvusClient(file)
            table = as_table(client, "notes")
            client.close()
            server_manager_instance.release_server(file)
            return table

        def put_foreign() -> None:
            client = pymilvus.MilvusClient(file)
            client.create_collection("notes", dimension=N_DIMS)
            client.close()
            server_manager_instance.release_server(file)

        return Place(f"milvus:{file}?table=notes", read, put_foreign)

    def test_looking_makes_no_file(self, place, tmp_path):
        sink = self.open(place)
        assert sink.manifest() is None
        sink.close()
        assert list(tmp_path.iterdir()) == []

    def test_another_process_is_told_that_it_is_open_and_may_open_it_afterwards(self, place, sink):
        assert "another process has it open" in read_elsewhere(place.url)
        second = self.open(place)
        assert second.count() == 0
        second.close()
        sink.write(rows(numbered(3)))  # the other's closing has not stopped it
        sink.close()
        assert read_elsewhere(place.url) == "3\n"

    def test_a_search_for_all_rows_finds_them_in_an_index_on_the_disk(self, place, sink):
        matrix = vectors(600, seed=1)
        sink.write(rows(numbered(600), matrix=matrix))
        again = self.reopened(sink, place)  # closing builds the index
        assert again.manifest() == MANIFEST
        for n in (500, 5_000):
            hits = again.search(matrix[70], n)
            cosines = np.sort(matrix @ matrix[70])[::-1][:n]
            assert [hit.score for hit in hits] == pytest.approx(cosines.tolist(), abs=1e-5)
        again.close()

    @pytest.mark.parametrize("column", ["text", "metadata", "headings"])
    def test_a_row_that_is_too_long_is_named(self, sink, column):
        listed = rows(numbered(4)).to_pylist()
        listed[2][column] = json.dumps({"x": "é" * 33_000}, ensure_ascii=False)
        with pytest.raises(EngineFailure, match=rf"column {column} of row 'doc-2#0' has 66,\d+ bytes.*65,535 at most"):
            sink.write(pa.RecordBatch.from_pylist(listed, row_schema(N_DIMS)))
        assert sink.count() == 0

    def test_long_texts_are_sent_in_several_requests(self, sink, monkeypatch):
        monkeypatch.setattr(milvus, "MAX_REQUEST_BYTES", 100_000)
        sink.write(rows(numbered(50), text="x" * 60_000))
        assert stored_ids(sink) == set(numbered(50))


class TestServer(SinkContract):
    @pytest.fixture
    def place(self, pymilvus, server_port) -> Place:
        name = f"notes{next(NUMBERS)}"
        address = f"http://127.0.0.1:{server_port}"

        def read() -> pa.Table:
            client = pymilvus.MilvusClient(address)
            table = as_table(client, name)
            client.close()
            return table

        def put_foreign() -> None:
            client = pymilvus.MilvusClient(address)
            client.create_collection(name, dimension=N_DIMS)
            client.close()

        return Place(f"milvus://127.0.0.1:{server_port}/{name}", read, put_foreign)

    def test_a_collection_is_made_once(self, place, sink):
        with pytest.raises(EmbedError, match="already exists"):
            sink.create(replace(MANIFEST, ingest_id="other"))
        assert sink.manifest() == MANIFEST

    def test_a_collection_of_another_width_than_its_manifest_is_refused(self, sink):
        sink.replace_manifest(replace(MANIFEST, dimensions=3))
        with pytest.raises(ConfigError, match=rf"has \[{N_DIMS}\] dimensions, and its manifest says 3"):
            sink.manifest()


def test_a_killed_server_has_all_that_was_acknowledged(pymilvus, tmp_path, monkeypatch):
    monkeypatch.setattr(milvus, "REQUEST_TIMEOUT_S", 2)
    port = free_port()
    url = f"milvus://127.0.0.1:{port}/notes"
    with milvus_server(tmp_path, port):
        sink = open_sink(url)
        sink.create(MANIFEST)
        for first in range(0, 1_000, 250):
            sink.write(rows(numbered(250, first=first)))
        sink.flush()
    with pytest.raises(Unavailable, match=f"Milvus at 127.0.0.1:{port}"):
        sink.write(rows(numbered(3)))
    sink.close()
    with milvus_server(tmp_path, port):
        assert read_elsewhere(url) == "1000\n"  # gRPC waits a while before it tries a lost address again


def test_a_server_that_does_not_answer_is_unavailable(pymilvus, monkeypatch):
    monkeypatch.setattr(milvus, "CONNECT_TIMEOUT_S", 1)
    port = free_port()
    sink = open_sink(f"milvus://me:s3cret@127.0.0.1:{port}/notes")
    with pytest.raises(Unavailable, match=f"Milvus at 127.0.0.1:{port} does not answer") as caught:
        sink.manifest()
    assert "s3cret" not in caught.value.message
    sink.close()


def test_the_name_of_a_file_is_checked():
    with pytest.raises(ConfigError, match=r"ends in \.db, and 'docs' does not"):
        open_sink("milvus:docs")


def test_a_file_of_another_kind_is_refused(pymilvus, tmp_path):
    (tmp_path / "docs.db").write_text("SQLite format 3")
    sink = open_sink(f"milvus:{tmp_path}/docs.db")
    with pytest.raises(ConfigError, match="no file of Milvus Lite"):
        sink.manifest()
    sink.close()
