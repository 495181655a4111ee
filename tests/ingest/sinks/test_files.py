"""Tests of the sinks in files: Parquet, numpy, JSON lines, and the one that keeps nothing."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.open import open_sink
from tests.ingest.sinks.contract import Place, SinkContract
from tests.ingest.sinks.sample_rows import MANIFEST, numbered, rows, vectors


def put(path, text: str = "mine"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read_lines(path, opener=open) -> pa.Table:
    with opener(path, "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return pa.Table.from_pylist(
        [{**row, "metadata": json.dumps(row["metadata"])} for row in found], schema=rows(["x"]).schema
    )


class TestParquet(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        folder = tmp_path / "vectors"
        return Place(f"parquet:{folder}", lambda: pq.read_table(folder), lambda: put(folder / "other.parquet"))


class TestNpy(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        folder = tmp_path / "vectors"

        def read() -> pa.Table:
            found = [json.loads(line) for line in (folder / "rows.jsonl").read_bytes().splitlines()]
            matrix = np.load(folder / "vectors.npy", mmap_mode="r")
            assert matrix.dtype == np.float32
            for row, vector in zip(found, matrix, strict=True):
                row.update(embedding=vector, metadata=json.dumps(row["metadata"]))
            return pa.Table.from_pylist(found, schema=rows(["x"]).schema)

        return Place(f"npy:{folder}", read, lambda: put(folder / "vectors.npy"))


class TestJsonlFile(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        path = tmp_path / "out" / "vectors.jsonl"
        return Place(f"jsonl:{path}", lambda: read_lines(path), lambda: put(path))


class TestGzippedJsonl(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        path = tmp_path / "vectors.jsonl.gz"
        return Place(f"jsonl:{path}", lambda: read_lines(path, gzip.open), lambda: put(path))


class TestJsonlFolder(SinkContract):
    @pytest.fixture
    def place(self, tmp_path):
        folder = tmp_path / "vectors"

        def read() -> pa.Table:
            return pa.concat_tables(read_lines(path) for path in folder.glob("*.jsonl"))

        return Place(f"jsonl:{folder}", read, lambda: put(folder / "mine.jsonl"))


def test_nowhere_only_counts():
    sink = open_sink("null:")
    assert sink.manifest() is None
    sink.create(MANIFEST)
    sink.write(rows(numbered(7)))
    sink.flush()
    assert (sink.manifest(), sink.count(), list(sink.stored())) == (MANIFEST, 7, [])
    with pytest.raises(ConfigError, match="13 dimensions"):
        sink.write(rows(["a"], matrix=vectors(1, 0, 13)))
    sink.close()
