"""Qdrant: the client against its own double in memory and against HTTP errors, and the engine in process."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import METADATA_KEYS, row_schema
from gguf_embed.ingest.sinks.open import open_sink
from gguf_embed.ingest.sinks.qdrant import QdrantSink
from gguf_embed.ingest.sinks.qdrant_points import point_ids
from tests.ingest.sinks.contract import ROOT, Place, SinkContract, stored_ids
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows, vectors
from tests.ingest.sinks.servers import free_port

NUMBERS = itertools.count()


def as_table(points) -> pa.Table:
    listed = [{**point.payload, "embedding": point.vector} for point in points]
    assert {tuple(row) for row in listed} <= {("id", *METADATA_KEYS, "embedding")}
    for row in listed:
        row["metadata"] = json.dumps(row["metadata"])
    return pa.Table.from_pylist(listed, row_schema(N_DIMS))


class TestClient(SinkContract):
    exact_vectors = False  # cosine: they are divided by their length
    keeps_lengths = False
    survives_kill = False

    @pytest.fixture
    def client(self):
        qdrant_client = pytest.importorskip("qdrant_client")

        class InMemory(qdrant_client.QdrantClient):
            def close(self, **options) -> None:
                """Not now: the next sink finds the same rows."""

        client = InMemory(":memory:")
        yield client
        qdrant_client.QdrantClient.close(client)

    @pytest.fixture
    def place(self, client) -> Place:
        from qdrant_client.models import Distance, VectorParams

        collection = f"docs{next(NUMBERS)}"

        def read() -> pa.Table:
            return as_table(client.scroll(collection, limit=10_000, with_vectors=True)[0])

        def put_foreign() -> None:
            client.create_collection(collection, VectorParams(size=N_DIMS, distance=Distance.COSINE))

        self.client_of_test = client
        return Place(collection, read, put_foreign)

    def open(self, place: Place) -> QdrantSink:
        return QdrantSink(self.client_of_test, place.url, "memory")

    def test_a_collection_of_another_width_than_its_manifest_is_refused(self, client, place):
        from qdrant_client.models import Distance, VectorParams

        sink = self.open(place)
        sink.create(MANIFEST)
        metadata = client.get_collection(place.url).config.metadata
        client.delete_collection(place.url)
        client.create_collection(place.url, VectorParams(size=3, distance=Distance.COSINE), metadata=metadata)
        with pytest.raises(ConfigError, match=rf"have 3 dimensions.*{N_DIMS}"):
            sink.manifest()


class TestEdge(SinkContract):
    exact_vectors = False
    keeps_lengths = False

    @pytest.fixture
    def place(self, tmp_path) -> Place:
        edge = pytest.importorskip("qdrant_edge")
        folder = tmp_path / "shard"

        def read() -> pa.Table:
            shard = edge.EdgeShard.load(str(folder))
            points, _ = shard.scroll(edge.ScrollRequest(limit=10_000, with_payload=True, with_vector=True))
            table = as_table(points)
            shard.close()
            return table

        def put_foreign() -> None:
            folder.mkdir()
            parameters = edge.EdgeVectorParams(size=N_DIMS, distance=edge.Distance.Cosine)
            edge.EdgeShard.create(str(folder), edge.EdgeConfig(vectors=parameters)).close()

        return Place(f"qdrant:{folder}", read, put_foreign)

    def test_a_folder_holds_one_collection(self, place):
        with pytest.raises(ConfigError, match=r"\?table=notes cannot be chosen"):
            open_sink(f"{place.url}?table=notes")

    def test_a_url_with_three_slashes_is_a_folder_too(self, place, sink):
        assert sink.name == open_sink(place.url.replace("qdrant:", "qdrant://")).name

    def test_a_run_that_ended_between_the_manifest_and_the_shard_goes_on(self, place, tmp_path):
        first = self.open(place)
        first.replace_manifest(MANIFEST)
        second = self.open(place)
        assert second.manifest() == MANIFEST
        second.write(rows(numbered(3)))
        assert second.count() == 3
        second.close()

    def test_it_is_not_created_twice(self, place, sink):
        with pytest.raises(EmbedError, match="already exists"):
            sink.create(MANIFEST)

    def test_a_second_process_is_told_that_it_is_open(self, place, sink):
        script = (
            "import sys; from gguf_embed.ingest.sinks.open import open_sink; from gguf_embed.errors import EmbedError\n"
            "try: open_sink(sys.argv[1]).count()\nexcept EmbedError as error: print(error)"
        )
        found = subprocess.run([sys.executable, "-c", script, place.url], cwd=ROOT, capture_output=True, text=True)
        assert found.stdout.startswith("another process has Qdrant folder"), found


class Answers(BaseHTTPRequestHandler):
    """Gives the status and the headers that the test has listed, then success."""

    wbufsize = -1  # the whole reply at once
    statuses: ClassVar[list[tuple[int, dict[str, str]]]] = []
    results: ClassVar[dict[str, object]] = {}  # by path
    seen: ClassVar[list[str]] = []  # API keys
    bodies: ClassVar[list[tuple[str, str, dict[str, object]]]] = []

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("api-key", ""))
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.bodies.append((self.command, self.path, json.loads(data or b"{}")))
        status, headers = self.statuses.pop(0) if self.statuses else (200, {})
        reply: dict[str, object] = {"status": {"error": "the reason"}, "time": 0.0}
        if status == 200:
            reply |= {"status": "ok", "result": self.results.get(self.path.partition("?")[0], {"exists": False})}
        body = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_PATCH = do_POST = do_GET  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def answering(*statuses: tuple[int, dict[str, str]]) -> Iterator[int]:
    Answers.statuses[:] = statuses
    Answers.seen.clear()
    Answers.bodies.clear()
    Answers.results.clear()
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class TestHttp:
    @pytest.fixture(autouse=True)
    def _client(self) -> None:
        pytest.importorskip("qdrant_client")

    def test_a_server_that_does_not_answer_is_unavailable(self):
        port = free_port()
        sink = open_sink(f"qdrant://127.0.0.1:{port}/docs")
        with pytest.raises(Unavailable, match=f"Qdrant at 127.0.0.1:{port} does not answer .*refused.*is running"):
            sink.manifest()
        sink.close()

    def test_the_requests_are_those_of_qdrants_http(self):
        from qdrant_client import QdrantClient

        memory = QdrantClient(":memory:")
        double = QdrantSink(memory, "docs", "memory")
        double.create(MANIFEST)
        described = memory.get_collection("docs").model_dump(mode="json")
        memory.close()
        done = {"operation_id": 1, "status": "completed"}
        with answering() as port:
            Answers.results.update({"/collections/docs/exists": {"exists": True}, "/collections/docs": described})
            Answers.results.update({"/collections/docs/points": done, "/collections/docs/points/delete": done})
            sink = open_sink(f"qdrant://127.0.0.1:{port}/docs")
            assert sink.manifest() == MANIFEST
            Answers.results["/collections/docs"] = True  # what changing it returns
            sink.write(rows(numbered(2)))
            sink.delete(["doc-0#0"])
            sink.replace_manifest(MANIFEST)
            sink.close()
        upsert, delete, replace = Answers.bodies[-3:]
        batch = upsert[2]["batch"]
        assert upsert[:2] == ("PUT", "/collections/docs/points?wait=true")
        assert batch["ids"] == point_ids(numbered(2))
        assert batch["vectors"] == rows(numbered(2)).column("embedding").to_pylist()
        assert [payload["id"] for payload in batch["payloads"]] == numbered(2)
        assert delete[:2] == ("POST", "/collections/docs/points/delete?wait=true")
        assert delete[2] == {"points": point_ids(["doc-0#0"])}
        assert (replace[0], replace[2]["metadata"]["gguf_embed"]["model"]) == ("PATCH", MANIFEST.model)

    def test_it_waits_as_long_as_an_overloaded_server_asks(self):
        with answering((429, {"Retry-After": "0"}), (429, {"Retry-After": "0"})) as port:
            sink = open_sink(f"qdrant://127.0.0.1:{port}/docs")
            assert sink.manifest() is None
            sink.close()
        assert len(Answers.seen) == 3

    def test_a_server_that_stays_overloaded_is_unavailable(self):
        with answering(*[(429, {"Retry-After": "0"})] * 9) as port:
            sink = open_sink(f"qdrant://127.0.0.1:{port}/docs")
            with pytest.raises(Unavailable, match="the reason"):
                sink.manifest()
            sink.close()

    def test_a_refused_key_is_a_wrong_setting_and_is_not_shown(self):
        with answering((403, {})) as port:
            with pytest.warns(UserWarning, match="insecure connection"):
                sink = open_sink(f"qdrant://:s3cret@127.0.0.1:{port}/docs?https=0")
            with pytest.raises(ConfigError, match="refuses the API key: set QDRANT_API_KEY") as caught:
                sink.manifest()
            sink.close()
        assert "s3cret" not in caught.value.message
        assert Answers.seen == ["s3cret"]

    def test_other_errors_have_the_servers_words(self):
        with answering((400, {})) as port:
            sink = open_sink(f"qdrant://127.0.0.1:{port}/docs")
            with pytest.raises(EngineFailure, match=r"collection docs at .*: the reason \(status 400\)"):
                sink.manifest()
            sink.close()


def test_the_ids_of_points_never_change():
    assert point_ids(["a", "資料庫#1"]) == [
        "a49c2dba-a8cc-51ba-9ad6-bbfdc76af451",
        "2a598c12-324b-5a88-8877-ee4a52f0a7e0",
    ]


def test_rows_keep_their_points(tmp_path):
    pytest.importorskip("qdrant_edge")
    sink = open_sink(f"qdrant:{tmp_path}/new/deep")
    sink.create(MANIFEST)
    sink.write(rows(numbered(2_500)))
    assert stored_ids(sink) == set(numbered(2_500))
    assert len(sink.search(vectors(1, 0)[0], 3)) == 3
    sink.close()
