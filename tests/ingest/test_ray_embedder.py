"""`RayEmbedder` as Ray Data calls it, with tables. Needs no Ray."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import gguf_embed
from gguf_embed.errors import ConfigError


@pytest.fixture(scope="module")
def embedder(models, cache_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUF_EMBED_CACHE", str(cache_dir))
        found = gguf_embed.RayEmbedder(str(models / "encoder.gguf"), text_column="body", threads=1)
    yield found
    found._pool.close()


def test_texts_get_vectors_and_those_that_fail_a_reason(embedder):
    table = pa.table({"n": [1, 2, 3, 4], "body": ["hello cat", None, "hello " * 100, "world"]})
    found = embedder(table)
    assert found.column_names == ["n", "body", "embedding", "error"]
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 32)
    assert found.column("error").to_pylist() == [None, "is null", "has 102 tokens, the limit per text is 64", None]
    vectors = found.column("embedding").to_pylist()
    assert (vectors[1], vectors[2]) == (None, None)
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-3)
    assert vectors[0] != vectors[3]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_every_kind_of_text_column_and_an_empty_table(embedder, kind):
    table = pa.table({"body": pa.array(["hello", "cat"], kind)})
    assert embedder(table).column("error").null_count == 2
    empty = embedder(table.slice(0, 0))
    assert (len(empty), empty.schema) == (0, embedder(table).schema)


def test_a_table_in_several_pieces_keeps_its_order(embedder):
    one, other = pa.table({"body": ["hello", "cat"]}), pa.table({"body": ["dog", "world"]})
    found = embedder(pa.concat_tables([one, other])).column("embedding").to_pylist()
    assert np.allclose(found[2:], embedder(other).column("embedding").to_pylist(), atol=0.01)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"text": ["a"]}, "no column 'body': name one of text"),
        ({"body": [1]}, "'body' is int64"),
        ({"body": ["a"], "error": ["b"]}, "already has a column 'error'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(embedder, columns, words):
    with pytest.raises(ConfigError, match=words):
        embedder(pa.table(columns))
