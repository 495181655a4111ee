"""What the sinks in databases share."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.rows import STORED
from gguf_embed.ingest.sinks.database import host_and_port, one_line, require, stored_batch
from gguf_embed.ingest.sinks.open import open_sink, parse_url


@pytest.mark.parametrize(
    ("url", "module", "package", "extra"),
    [
        ("postgresql://host/app", "psycopg", "psycopg", "postgres"),
        ("qdrant://host/docs", "qdrant_client", "qdrant-client", "qdrant"),
        ("qdrant:folder", "qdrant_edge", "qdrant-edge-py", "qdrant"),
        ("chroma:folder", "chromadb", "chromadb", "chroma"),
        ("milvus:docs.db", "pymilvus", "pymilvus", "milvus"),
        ("opensearch://host/docs", "opensearchpy", "opensearch-py", "opensearch"),
        ("elasticsearch://host/docs", "elasticsearch", "elasticsearch", "elasticsearch"),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, url, module, package, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        open_sink(url)
    assert caught.value.message == f"this sink needs the package {package}: pip install 'gguf-embed[{extra}]'"


def test_a_package_that_is_there_and_cannot_be_loaded_says_why(monkeypatch, tmp_path):
    (tmp_path / "broken_database.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="broken-db cannot be loaded: No module named 'no_such_dependency'"):
        require("broken_database", "broken-db", "broken")


def test_stored_rows_have_the_columns_of_a_jobs_state():
    found = stored_batch([["a#0", "a", 0, "00"], ["a#1", "a", 1, "01"]])
    assert tuple(found.schema.names) == STORED
    assert found.schema.field("chunk").type == pa.int32()
    assert found.to_pylist()[1] == {"id": "a#1", "doc_id": "a", "chunk": 1, "hash": "01"}
    assert len(stored_batch([])) == 0


def test_an_error_is_one_line_without_the_password():
    assert one_line(ValueError("no\n  entry for s3cret "), "s3cret") == "no entry for ***"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 9_000))) == 401


def test_an_address_of_ip_6_is_bracketed():
    assert host_and_port(parse_url("qdrant://[::1]/docs"), 6333) == "[::1]:6333"
