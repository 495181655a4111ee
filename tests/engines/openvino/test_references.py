"""Graphs give what the original packages give, for tiny models of every architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.convert.encoders import tiny_models
from tests.engines.openvino.graph_models import MODELS, RUNNABLE, Array, reference, write_gguf
from tests.engines.openvino.running import open_graph

LEAST_COSINE, MOST_OFF = 0.99999, 1e-4  # of vectors, and of scores


def run(path: Path, ids: list[list[int]], pooling: Pooling) -> Array:
    """float32[n_texts, n_embd or n_scores] of all texts in one batch, not normalized."""
    with open_graph(path, pooling) as graph:
        return graph.rows(ids)


@pytest.mark.parametrize("name", RUNNABLE)
def test_results_are_those_of_the_original(tmp_path, name):
    expected = reference(name)
    found = run(write_gguf(name, tmp_path / "model.gguf"), expected.ids, expected.pooling)
    assert found.shape == expected.expected.shape
    if expected.pooling is Pooling.RANK:
        np.testing.assert_allclose(found, expected.expected, rtol=0, atol=MOST_OFF)
    else:
        assert tiny_models.cosines(found, expected.expected).min() > LEAST_COSINE
        lengths = [np.linalg.norm(rows, axis=1) for rows in (found, expected.expected)]
        np.testing.assert_allclose(*lengths, rtol=1e-2)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_text_has_the_same_vector_alone_and_in_any_batch(tmp_path, name):
    expected = reference(name)
    with open_graph(write_gguf(name, tmp_path / "model.gguf"), expected.pooling) as graph:
        together = graph.rows(expected.ids)
        alone = np.concatenate([graph.rows([text]) for text in expected.ids])
        backwards = graph.rows(expected.ids[::-1])[::-1]
    if expected.pooling is Pooling.RANK:
        np.testing.assert_allclose(alone, together, rtol=0, atol=MOST_OFF)
    else:
        assert tiny_models.cosines(alone, together).min() > LEAST_COSINE
        assert tiny_models.cosines(backwards, together).min() > LEAST_COSINE


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_its_architecture(tmp_path, name):
    header = read_header(write_gguf(name, tmp_path / "model.gguf"))
    assert header.architecture == MODELS[name].architecture


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith(("modern_bert", "gemma"))])
def test_texts_are_longer_than_the_window_of_local_layers(tmp_path, name):
    header = read_header(write_gguf(name, tmp_path / "model.gguf"))
    window = header.metadata[f"{header.architecture}.attention.sliding_window"]
    assert isinstance(window, int)
    assert sum(len(text) > 2 * window for text in reference(name).ids) >= 5


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("name", ["jina_bert_v2", "bert_fused_qkv", "nomic_bert_split_qkv", "gemma_periodic_layers"])
def test_smaller_types_stay_near(tmp_path, name, outtype):
    expected = reference(name)
    found = run(write_gguf(name, tmp_path / "model.gguf", outtype), expected.ids, expected.pooling)
    assert tiny_models.cosines(found, expected.expected).min() > 0.99
