"""Multi-vectors and sparse vectors in this process and from our own server."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed import Client, Embedder, Muvera
from gguf_embed.convert.convert import convert_directory
from gguf_embed.embedder.endpoint_errors import Temporary
from gguf_embed.embedder.endpoint_replies import parse_multivectors, parse_muvera, parse_sparse
from gguf_embed.errors import InvalidRequest, NotSupported
from gguf_embed.vectors.muvera import encoder_of
from tests.data.head_directories import write_directory

NAMES = ("colbert_bert", "splade_bert")
TEXTS = ["The quick brown fox", "hello"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("heads")
    for name in NAMES:
        convert_directory(write_directory(name, path / name), path / f"{name}.gguf", "f32", report=lambda line: None)
    return path


def test_a_server_gives_the_same_as_a_model_in_this_process(folder, launch, cache_dir):
    flags = [part for name in NAMES for part in ("-m", str(folder / f"{name}.gguf"))]
    server = launch(*flags, "--models-max", "2", "--precision", "f32")
    with (
        Embedder(folder / "colbert_bert.gguf", cache=cache_dir, precision="f32") as model,
        Client(server.url, model="colbert_bert") as client,
    ):
        for prompt in (None, "query"):
            found, expected = (one.embed_multivector(TEXTS, prompt=prompt, truncate=True) for one in (client, model))
            assert [rows.shape for rows in found] == [rows.shape for rows in expected]
            np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), atol=1e-5)
        assert {len(rows) for rows in expected} == {12}  # queries are filled up
        assert model.embed_multivector(TEXTS, dimensions=4)[0].shape[1] == 4
        settings = Muvera(k_sim=3, dim_proj=5, r_reps=2)
        for prompt in (None, "query"):
            fixed = [
                one.embed_muvera(TEXTS, settings=settings, prompt=prompt, truncate=True) for one in (client, model)
            ]
            np.testing.assert_allclose(*fixed, atol=1e-5)
            rows = model.embed_multivector(TEXTS, prompt=prompt, truncate=True)[1]
            expected = encoder_of(settings, 16).encode(rows, is_query=bool(prompt))
            np.testing.assert_allclose(fixed[0][1], expected, atol=1e-5)
        assert model.embed_muvera([]).shape == client.embed_muvera([]).shape == (0, 10240)
        for one in (model, client):
            with pytest.raises(InvalidRequest, match=r"k_sim.* 10"):
                one.embed_muvera(TEXTS, settings=Muvera(k_sim=11))
        assert model.embed_multivector([]) == client.embed_multivector([]) == []
        ranked = model.rerank("hello", TEXTS[1:] * 2)
        assert [item.index for item in ranked] == [item.index for item in client.rerank("hello", TEXTS[1:] * 2)]
        with pytest.raises(NotSupported, match=r"use embed_multivector\(\)"):
            model.embed("hello")
        for one in (model, client):
            with pytest.raises(NotSupported, match="no head for sparse vectors"):
                one.embed_sparse(TEXTS)
            with pytest.raises(InvalidRequest, match="17 dimensions"):
                one.embed_multivector(TEXTS, dimensions=17)
            with pytest.raises(InvalidRequest, match="a list of texts"):
                one.embed_multivector("hello")
    with (
        Embedder(folder / "splade_bert.gguf", cache=cache_dir, precision="f32") as model,
        Client(server.url, model="splade_bert") as client,
    ):
        for here, there in zip(model.embed_sparse(TEXTS), client.embed_sparse(TEXTS), strict=True):
            assert (here.indices.dtype, here.values.dtype) == (np.int32, np.float32)
            np.testing.assert_array_equal(here.indices, there.indices)
            np.testing.assert_allclose(here.values, there.values, rtol=1e-5)


def test_a_server_that_ignores_muvera_is_told_by_the_width_of_its_vectors():
    with pytest.raises(NotSupported, match="http://x gives no MUVERA vectors"):
        parse_muvera(DENSE % b"[0.5, 1.0]", 1, "http://x", 80)


DENSE = b'{"data": [{"index": 0, "embedding": %s}]}'


@pytest.mark.parametrize("vector", [b'"AACAPw=="', b"[0.5, 1.0]", b"null"])
def test_servers_that_give_dense_vectors_are_not_asked_again(vector):
    with pytest.raises(NotSupported, match="http://x gives no multi-vectors"):
        parse_multivectors(DENSE % vector, 1, "http://x")
    with pytest.raises(NotSupported, match="http://x gives no sparse vectors"):
        parse_sparse(DENSE % vector, 1, "http://x")


@pytest.mark.parametrize(
    "body",
    [
        b'{"data": [{"index": 0, "embedding": [["a"]]}]}',
        b'{"data": [{"index": 0, "embedding": [[1], [1, 2]]}]}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": [], "embedding": [[1]]}]}',
        b'{"data": []}',
        b'{"data": 1}',
    ],
)
def test_broken_multivectors_are_tried_again(body):
    with pytest.raises(Temporary):
        parse_multivectors(body, 1, "http://x")


@pytest.mark.parametrize(
    "value",
    [
        b"[]",
        b"{}",
        b'{"indices": [1], "values": []}',
        b'{"indices": [99999999999], "values": [1]}',
        b'{"indices": 1, "values": 1}',
    ],
)
def test_broken_sparse_vectors_are_tried_again(value):
    with pytest.raises(Temporary):
        parse_sparse(b'{"data": [{"index": 0, "sparse_embedding": %s}]}' % value, 1, "http://x")
