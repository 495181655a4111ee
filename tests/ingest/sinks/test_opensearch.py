"""OpenSearch and Elasticsearch: their clients against a server that speaks their documented HTTP."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError, EmbedError, EngineFailure, Unavailable
from gguf_embed.ingest.rows import row_schema
from gguf_embed.ingest.sinks import opensearch
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import Place, SinkContract, stored_ids
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows, vectors
from tests.ingest.sinks.search_server import problem, search_server
from tests.ingest.sinks.servers import free_port

NUMBERS = itertools.count()
MODULES = {"opensearch": "opensearchpy", "elasticsearch": "elasticsearch"}


@pytest.fixture(scope="module", params=list(MODULES))
def server(request):
    pytest.importorskip(MODULES[request.param])
    with search_server(request.param) as running:
        yield running


@pytest.fixture
def url(server) -> str:
    return f"{server.flavor}://127.0.0.1:{server.server_port}/docs-{next(NUMBERS)}"


@pytest.fixture
def sink(url):
    sink = open_sink(url)
    sink.create(MANIFEST)
    sink.prepare("after")
    yield sink
    sink.close()


@pytest.fixture(autouse=True)
def _quickly(monkeypatch) -> None:
    monkeypatch.setattr(opensearch, "FIRST_PAUSE_S", 0.001)


class TestContract(SinkContract):
    zero_vectors = False

    @pytest.fixture
    def place(self, server, url) -> Place:
        name = url.rpartition("/")[2]

        def read() -> pa.Table:
            listed = [
                source | {"metadata": json.dumps(source["metadata"])}
                for source in server.indices[name].written.values()
            ]
            return pa.Table.from_pylist(listed, row_schema(N_DIMS))

        def put_foreign() -> None:
            assert server.create(name, {"mappings": {"properties": {"title": {"type": "text"}}}})[0] == 200

        return Place(url, read, put_foreign)


class TestIndex:
    def test_a_changed_index_is_refused(self, server, url, sink):
        sink.replace_manifest(replace(MANIFEST, dimensions=3))
        with pytest.raises(ConfigError, match=f"have {N_DIMS} dimensions, and its manifest says 3"):
            sink.manifest()

    def test_an_index_is_made_once(self, sink):
        with pytest.raises(EmbedError, match="already exists"):
            sink.create(replace(MANIFEST, ingest_id="other"))
        assert sink.manifest() == MANIFEST

    def test_a_name_that_the_server_refuses(self, url):
        sink = open_sink(f"{url}-Big")
        with pytest.raises(EngineFailure, match=r"must be lowercase \(status 400\)"):
            sink.create(MANIFEST)
        sink.close()

    @pytest.mark.parametrize("before", [None, "5s", "-1"])
    def test_it_is_not_refreshed_while_it_is_loaded(self, server, url, sink, before):
        index = server.indices[url.rpartition("/")[2]]
        index.settings = {"index": {"refresh_interval": before}}
        sink.prepare("after")
        assert index.settings["index"]["refresh_interval"] == "-1"
        sink.write(rows(numbered(3)))
        assert not index.seen
        sink.finish("after")
        assert index.settings["index"]["refresh_interval"] == (None if before == "-1" else before)
        assert len(index.seen) == 3

    def test_keep_leaves_its_settings_alone(self, server, url, sink):
        index = server.indices[url.rpartition("/")[2]]
        index.settings = {"index": {"refresh_interval": "7s"}}
        sink.prepare("keep")
        sink.write(rows(numbered(3)))
        sink.finish("keep")
        assert index.settings == {"index": {"refresh_interval": "7s"}}

    def test_ids_longer_than_the_server_takes(self, sink):
        ids = ["é" * 256, "é" * 256 + "x", "y" * 5_000]
        sink.write(rows(ids))
        sink.write(rows(ids[1:], seed=2))
        assert stored_ids(sink) == set(ids)
        assert {hit.id for hit in sink.search(vectors(1, 0)[0], 9)} == set(ids)
        sink.delete(ids[1:])
        assert stored_ids(sink) == {ids[0]}

    def test_it_finds_no_more_rows_than_the_server_gives(self, sink):
        with pytest.raises(ConfigError, match="finds 10,000 rows at most, not 10,001"):
            sink.search(vectors(1, 0)[0], 10_001)

    def test_a_query_of_zeros_finds_nothing(self, sink):
        sink.write(rows(numbered(3)))
        assert sink.search(0 * vectors(1, 0)[0], 3) == []


class TestFailures:
    def test_rows_that_an_overloaded_server_refuses_are_sent_again(self, server, sink):
        server.busy.update(numbered(3))
        sink.write(rows(numbered(5)))
        assert stored_ids(sink) == set(numbered(5))

    def test_a_request_that_an_overloaded_server_refuses_is_sent_again(self, server, sink):
        server.faults[:] = [(429, problem("too_many", "slow down"))] * 2
        sink.write(rows(numbered(5)))
        assert stored_ids(sink) == set(numbered(5))

    def test_a_server_that_stays_overloaded_is_unavailable(self, server, sink):
        server.faults[:] = [(429, problem("too_many", "slow down"))] * 99
        with pytest.raises(Unavailable, match=r"at 127\.0\.0\.1:\d+ does not answer: slow down"):
            sink.write(rows(numbered(5)))
        server.faults.clear()

    def test_rows_that_stay_refused_for_overload_are_unavailable(self, server, sink, monkeypatch):
        monkeypatch.setattr(opensearch, "MAX_RETRIES", 0)
        server.busy.add("doc-1#0")
        with pytest.raises(Unavailable, match="is overloaded: the queue is full"):
            sink.write(rows(numbered(5)))

    def test_the_first_row_that_is_refused_is_named(self, server, sink):
        matrix = vectors(5, 0)
        matrix[[2, 4]] = 0
        server.busy.add("doc-0#0")  # comes back after the others
        with pytest.raises(EngineFailure, match=r"row 'doc-2#0' is refused: failed to parse.*: a vector of zeros"):
            sink.write(rows(numbered(5), matrix=matrix))

    def test_large_batches_are_sent_in_parts(self, server, sink, monkeypatch):
        before = server.n_bulk_requests
        sink.write(rows(numbered(1_200)))
        assert server.n_bulk_requests == before + 3
        monkeypatch.setattr(opensearch, "MAX_REQUEST_BYTES", 200_000)
        sink.write(rows(numbered(8), text="x" * 60_000))
        assert server.n_bulk_requests == before + 6

    def test_a_refused_password_is_a_wrong_setting_and_is_not_shown(self, server):
        server.faults[:] = [(401, problem("security_exception", "wrong password s3cret"))]
        place = f"127.0.0.1:{server.server_port}/docs-{next(NUMBERS)}"
        sink = open_sink(f"{server.flavor}://me:s3cret@{place}")
        sink.create(MANIFEST)
        with pytest.raises(ConfigError, match=r"refuses access: wrong password \*\*\*"):
            sink.write(rows(numbered(1)))
        assert "Basic bWU6czNjcmV0" in server.authorizations
        sink.close()

    def test_a_server_that_does_not_answer_is_unavailable(self, server):
        port = free_port()
        sink = open_sink(f"{server.flavor}://me:s3cret@127.0.0.1:{port}/docs")
        with pytest.raises(Unavailable, match=rf"at 127\.0\.0\.1:{port} does not answer") as caught:
            sink.manifest()
        assert "s3cret" not in caught.value.message
        assert "\n" not in caught.value.message
        sink.close()


def test_elasticsearch_takes_an_api_key():
    pytest.importorskip("elasticsearch")
    with search_server("elasticsearch") as server:
        sink = open_sink(f"elasticsearch://:a2V5@127.0.0.1:{server.server_port}/docs")
        assert sink.manifest() is None
        sink.close()
        assert server.authorizations == {"ApiKey a2V5"}


@pytest.mark.parametrize("scheme", list(MODULES))
def test_a_folder_is_not_a_server(scheme):
    with pytest.raises(ConfigError, match=f"is a server: name its host, as in {scheme}://localhost:9200/docs"):
        open_sink(f"{scheme}:docs")
