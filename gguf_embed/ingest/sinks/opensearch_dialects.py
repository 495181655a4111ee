"""In what OpenSearch and Elasticsearch differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gguf_embed.ingest.sinks.database import host_and_port
from gguf_embed.ingest.sinks.open import SinkUrl

PORT = 9200
TIMEOUT_S = 60
MAX_FOUND = 10_000


@dataclass(frozen=True, slots=True)
class Dialect:
    """In what the two differ. `embedding` is the mapping of the vectors, `query` the body of a search."""

    name: str
    module: str
    package: str
    extra: str
    width_key: str
    settings: dict[str, Any]
    embedding: Callable[[int], dict[str, Any]]
    query: Callable[[list[float], int], dict[str, Any]]
    connect: Callable[[Any, SinkUrl], Any]


def _connect_opensearch(module: Any, url: SinkUrl) -> Any:
    return module.OpenSearch(
        hosts=[{"host": url.host, "port": url.port or PORT}],
        http_auth=(url.user, url.password) if url.user else None,
        use_ssl=_uses_https(url),
        ca_certs=url.option("ca") or None,
        timeout=TIMEOUT_S,
    )


def _connect_elasticsearch(module: Any, url: SinkUrl) -> Any:
    scheme = "https" if _uses_https(url) else "http"
    given = {
        "basic_auth": (url.user, url.password) if url.user else None,
        "api_key": url.password if url.password and not url.user else None,
        "ca_certs": url.option("ca") or None,
    }
    options = {name: value for name, value in given.items() if value}
    return module.Elasticsearch(f"{scheme}://{host_and_port(url, PORT)}", request_timeout=TIMEOUT_S, **options)


OPENSEARCH = Dialect(
    "OpenSearch",
    "opensearchpy",
    "opensearch-py",
    "opensearch",
    "dimension",
    {"index.knn": True},
    lambda n_dims: {
        "type": "knn_vector",
        "dimension": n_dims,
        "method": {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"},
    },
    lambda vector, n: {"query": {"knn": {"embedding": {"vector": vector, "k": n}}}},
    _connect_opensearch,
)
ELASTICSEARCH = Dialect(
    "Elasticsearch",
    "elasticsearch",
    "elasticsearch",
    "elasticsearch",
    "dims",
    {},
    lambda n_dims: {"type": "dense_vector", "dims": n_dims, "index": True, "similarity": "cosine"},
    lambda vector, n: {
        "knn": {
            "field": "embedding",
            "query_vector": vector,
            "k": n,
            "num_candidates": min(MAX_FOUND, max(100, 2 * n)),
        }
    },
    _connect_elasticsearch,
)


def _uses_https(url: SinkUrl) -> bool:
    return url.option("https").lower() in ("1", "true") or url.port == 443
