"""Chroma: in process on a folder, and its real server."""

from __future__ import annotations

import itertools
import json
import threading
from dataclasses import replace

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EmbedError, Unavailable
from gguf_embed.ingest.rows import row_schema
from gguf_embed.ingest.sinks.chroma import close_client
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.chroma_place import as_table, folder_place
from tests.ingest.sinks.contract import Place, SinkContract, stored_ids
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows, vectors
from tests.ingest.sinks.servers import chroma_server, free_port

pytestmark = [pytest.mark.ingest, pytest.mark.filterwarnings("ignore:legacy embedding function:DeprecationWarning")]

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def chromadb():
    return pytest.importorskip("chromadb")


@pytest.fixture(scope="module")
def server_port(chromadb, tmp_path_factory):
    port = free_port()
    with chroma_server(tmp_path_factory.mktemp("chroma"), port):
        yield port


class LosesRows:
    """A collection with an index that does not find some rows any more."""

    def __init__(self, collection, lost: list[str]) -> None:
        self._collection, self._lost = collection, lost
        self.n_texts = 0  # that were read besides those of the index

    def query(self, query_embeddings, n_results):
        found = self._collection.get(include=[])["ids"]
        reached = [id_ for id_ in found if id_ not in self._lost]
        return self._collection.query(query_embeddings=query_embeddings, n_results=n_results, ids=reached)

    def get(self, **what):
        found = self._collection.get(**what)
        self.n_texts += len(found["documents"] or ())
        return found

    def __getattr__(self, name):
        return getattr(self._collection, name)


class TestFolder(SinkContract):
    exact_vectors = False  # they are divided by their length

    @pytest.fixture
    def place(self, chromadb, tmp_path) -> Place:
        return folder_place(chromadb, tmp_path / "chroma")

    def test_looking_makes_no_folder(self, place, tmp_path):
        sink = self.open(place)
        assert sink.manifest() is None
        sink.close()
        assert list(tmp_path.iterdir()) == []

    def test_two_writers_at_a_time_are_refused(self, place, sink):
        other = self.open(place)
        assert other.manifest() == MANIFEST
        with pytest.raises(ConfigError, match=r"process \d+ is writing to Chroma collection notes"):
            other.prepare("none")
        other.close()

    @pytest.mark.parametrize("n", [200, 190, 5_000])
    def test_rows_that_the_index_does_not_find_any_more_are_found(self, sink, n):
        matrix = vectors(200, seed=7)
        matrix[20] = 0
        sink.write(rows(numbered(200), matrix=matrix))
        query = vectors(1, seed=8)[0] * 3
        expected = sink.search(query, n)
        assert len(expected) == min(n, 200)
        farthest = sink.search(query, 200)[195:]
        lost = [expected[0].id, *(hit.id for hit in [*expected[50:70], *farthest]), "doc-20#0"]
        sink._found = LosesRows(sink._found, lost)
        hits = sink.search(query, n)
        assert [replace(hit, score=0) for hit in hits] == [replace(hit, score=0) for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        assert sink._found.n_texts == len({hit.id for hit in hits} & set(lost))

    def test_a_folder_has_several_collections(self, place, sink):
        sink.write(rows(numbered(3)))
        other = open_sink(place.url.replace("notes", "other"))
        assert other.manifest() is None
        other.close()

    def test_more_rows_than_chroma_takes_at_once(self, sink):
        sink.write(rows(numbered(6_000)))
        assert sink.count() == 6_000
        sink.delete(numbered(5_800))
        assert stored_ids(sink) == set(numbered(200, first=5_800))

    def test_rows_are_filtered_by_the_metadata_of_their_last_version(self, chromadb, place, sink, tmp_path):
        def written(id_: str, metadata: dict[str, object]) -> None:
            row = rows([id_]).to_pylist()[0] | {"metadata": json.dumps(metadata)}
            sink.write(pa.RecordBatch.from_pylist([row], row_schema(N_DIMS)))

        odd = {"": 1, "#document": "x", "chroma:document": "x", "hash": "mine", "huge": 2**70, "none": None, "l": [1]}
        written("a", {"lang": "de", "stars": 4, "old": True})
        written("b", {"lang": "en", "stars": 5, **odd})
        written("a", {"lang": "fr", "share": 0.5})
        settings = chromadb.config.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(str(tmp_path / "chroma"), settings=settings)
        collection = client.get_collection("notes", embedding_function=None)
        found = {
            json.dumps(where): collection.get(where=where)["ids"]
            for where in ({"lang": "fr"}, {"lang": "de"}, {"old": True}, {"stars": {"$gt": 4}}, {"share": 0.5})
        }
        assert list(found.values()) == [["a"], [], [], ["b"], ["a"]], found
        assert json.loads(collection.get("b")["metadatas"][0]["metadata"]) == {"lang": "en", "stars": 5, **odd}
        close_client(client)


class TestServer(SinkContract):
    exact_vectors = False

    @pytest.fixture
    def place(self, chromadb, server_port) -> Place:
        name = f"notes{next(NUMBERS)}"
        settings = chromadb.config.Settings(anonymized_telemetry=False)

        def read() -> pa.Table:
            client = chromadb.HttpClient("127.0.0.1", server_port, settings=settings)
            table = as_table(client.get_collection(name, embedding_function=None))
            close_client(client)
            return table

        def put_foreign() -> None:
            client = chromadb.HttpClient("127.0.0.1", server_port, settings=settings)
            client.create_collection(name, metadata={"mine": 1}, embedding_function=None)
            close_client(client)

        return Place(f"chroma://127.0.0.1:{server_port}/{name}", read, put_foreign)

    def test_a_collection_of_another_space_is_refused(self, chromadb, place, server_port):
        sink = self.open(place)
        sink.create(MANIFEST)
        client = chromadb.HttpClient("127.0.0.1", server_port, settings=chromadb.config.Settings())
        name = place.url.rpartition("/")[2]
        metadata = client.get_collection(name, embedding_function=None).metadata
        client.delete_collection(name)
        client.create_collection(name, metadata=metadata, embedding_function=None)
        with pytest.raises(ConfigError, match="its space is l2 instead of cosine"):
            sink.manifest()
        close_client(client)
        sink.close()

    def test_a_collection_is_made_once(self, place, sink):
        with pytest.raises(EmbedError, match="already exists"):
            sink.create(replace(MANIFEST, ingest_id="other"))
        assert sink.manifest() == MANIFEST


def test_a_killed_server_has_all_that_was_acknowledged(chromadb, tmp_path):
    port = free_port()
    with chroma_server(tmp_path, port):
        sink = open_sink(f"chroma://127.0.0.1:{port}/notes")
        sink.create(MANIFEST)
        for first in range(0, 1_000, 250):
            sink.write(rows(numbered(250, first=first)))
        sink.flush()
    with pytest.raises(Unavailable, match=f"Chroma at 127.0.0.1:{port}"):
        sink.write(rows(numbered(3)))
    with chroma_server(tmp_path, port):
        again = open_sink(f"chroma://127.0.0.1:{port}/notes")
        assert stored_ids(again) == set(numbered(1_000))
        again.close()
    sink.close()


def test_a_server_that_does_not_answer_is_unavailable(chromadb):
    port = free_port()
    sink = open_sink(f"chroma://127.0.0.1:{port}/notes")
    with pytest.raises(Unavailable, match=f"Chroma at 127.0.0.1:{port} does not answer"):
        sink.manifest()
    sink.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("chroma:folder?table=ab", "'ab' cannot be a collection of Chroma: its name has 3 to 512"),
        ("chroma:folder?table=-abc", "cannot be a collection"),
        ("chroma://host/a%20b", "'a b' cannot be a collection"),
        ("chroma://me:s3cret@host/docs", "takes no user and no password"),
    ],
)
def test_what_chroma_does_not_take_is_said_at_once(url, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_sink(url)
    assert "s3cret" not in caught.value.message


def test_threads_open_a_folder_one_after_another(tmp_path, monkeypatch):
    """Chroma gives the second one a folder that is not open yet."""
    chromadb = pytest.importorskip("chromadb")
    url, opened = f"chroma:{tmp_path / 'chroma'}?table=notes", chromadb.PersistentClient
    entered, both = threading.Event(), threading.Event()

    def open_(*arguments, **settings):
        if entered.is_set():
            both.set()
        entered.set()
        assert threading.current_thread() is not first or not both.wait(0.5)
        return opened(*arguments, **settings)

    def read() -> None:
        sink = open_sink(url)
        manifests.append(sink.manifest())
        sink.close()

    writer = open_sink(url)
    writer.create(MANIFEST)
    writer.close()
    manifests: list[object] = []
    monkeypatch.setattr(chromadb, "PersistentClient", open_)
    first, second = threading.Thread(target=read), threading.Thread(target=read)
    first.start()
    assert entered.wait(60)
    second.start()
    first.join()
    second.join()
    assert manifests == [MANIFEST, MANIFEST]
