"""A file in CrispEmbed's layout gives what the same model gives in ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_embed import Embedder
from gguf_embed.convert.convert import convert_directory
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.gguf_file.token_heads import read_token_heads
from tests.data.crisp_layout import write_in_crisp_layout
from tests.data.crisp_native import write_natively
from tests.data.head_directories import write_directory

TEXTS = ["The quick brown fox", "hello"]


def converted(name: str, folder: Path) -> Path:
    convert_directory(write_directory(name, folder / "model"), folder / "ours.gguf", "f32", report=lambda line: None)
    return folder / "ours.gguf"


def test_multivectors(tmp_path):
    ours = converted("colbert_attended", tmp_path)
    heads = read_token_heads(read_header(ours))
    assert heads is not None
    assert heads.late is not None
    entries = read_strings(ours, "tokenizer.ggml.tokens")
    prefixes = {"query": heads.late.query_prefix, "document": heads.late.document_prefix}
    texts = {f"{role}_prefix": f"{entries[ids[0]].strip()} " for role, ids in prefixes.items()}
    write_in_crisp_layout(ours, tmp_path / "crisp.gguf", **texts)
    read = read_token_heads(read_header(tmp_path / "crisp.gguf"))
    assert read is not None
    assert read.late is not None
    late = (read.late.query_prefix, read.late.document_prefix, read.late.query_length, read.late.n_dims)
    assert late == (*prefixes.values(), heads.late.query_length, heads.late.n_dims)
    with (
        Embedder(ours, cache=tmp_path / "cache", precision="f32", engine="openvino") as one,
        Embedder(tmp_path / "crisp.gguf", cache=tmp_path / "cache", precision="f32", engine="openvino") as other,
    ):
        skipped = heads.late.skipped  # CrispEmbed lists none
        assert not skipped & set(one.tokenize(TEXTS[0]))
        for found, expected in zip(
            other.embed_multivector(TEXTS, truncate=True), one.embed_multivector(TEXTS, truncate=True), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sparse_vectors(tmp_path):
    ours = converted("splade_bert", tmp_path)
    write_in_crisp_layout(ours, tmp_path / "crisp.gguf")
    with (
        Embedder(ours, cache=tmp_path / "cache", precision="f32", engine="openvino") as one,
        Embedder(tmp_path / "crisp.gguf", cache=tmp_path / "cache", precision="f32", engine="openvino") as other,
    ):
        for found, expected in zip(other.embed_sparse(TEXTS), one.embed_sparse(TEXTS), strict=True):
            np.testing.assert_array_equal(found.indices, expected.indices)
            np.testing.assert_allclose(found.values, expected.values, atol=1e-6)


@pytest.mark.parametrize("name", ["bge_m3", "splade_bert"])
def test_its_own_layout(tmp_path, name):
    ours = converted(name, tmp_path)
    model_type = "bgem3" if name == "bge_m3" else "sparse"
    write_natively(ours, tmp_path / "crisp.gguf", tmp_path / "model" / "tokenizer.json", model_type=model_type)
    pooling = "cls" if name == "bge_m3" else "mean"
    with (
        Embedder(ours, cache=tmp_path / "cache", precision="f32", engine="openvino", pooling=pooling) as one,
        Embedder(tmp_path / "crisp.gguf", cache=tmp_path / "cache", precision="f32", pooling=pooling) as other,
    ):
        assert [other.tokenize(text) for text in TEXTS] == [one.tokenize(text) for text in TEXTS]
        np.testing.assert_allclose(other.embed(TEXTS), one.embed(TEXTS), atol=1e-6)
        for found, expected in zip(other.embed_sparse(TEXTS), one.embed_sparse(TEXTS), strict=True):
            np.testing.assert_array_equal(found.indices, expected.indices)
            np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
        if name == "bge_m3":
            pairs = zip(other.embed_multivector(TEXTS), one.embed_multivector(TEXTS), strict=True)
            for tokens, expected_tokens in pairs:
                np.testing.assert_allclose(tokens, expected_tokens, atol=1e-6)


def test_a_prefix_that_is_no_token_is_named(tmp_path):
    write_in_crisp_layout(converted("colbert_attended", tmp_path), tmp_path / "crisp.gguf", query_prefix="a query: ")
    with pytest.raises(ModelFileError, match=r"colbert\.query_prefix is 'a query: ', which is not a token"):
        read_token_heads(read_header(tmp_path / "crisp.gguf"))
