"""Rotary positions that no original has, fewer dimensions and scaled positions: vectors are those of llama.cpp."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import gguf
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.engines.openvino import support
from gguf_embed.gguf_file.header import read_header
from tests.convert.encoders import tiny_models
from tests.engines.openvino.graph_models import MODELS, reference, write_gguf
from tests.engines.openvino.running import open_graph
from tests.engines.openvino.test_bad_files import load_error, rewritten

UINT32, FLOAT32, STRING = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.FLOAT32, gguf.GGUFValueType.STRING
LEAST_COSINE = 0.9999
Entries = dict[str, tuple[Any, Any] | None]

FEWER_DIMENSIONS: Entries = {"dimension_count": (8, UINT32)}
LINEAR: Entries = {"scaling.type": ("linear", STRING), "scaling.factor": (4.0, FLOAT32)}
OLD_KEY: Entries = {"scaling.type": None, "scale_linear": (4.0, FLOAT32)}
BOTH_KEYS: Entries = LINEAR | {"scale_linear": (2.0, FLOAT32)}


def changed(name: str, folder, entries: Entries):
    """A file of `MODELS` before and after its entries of rotary positions are changed."""
    original = write_gguf(name, folder / "m.gguf")
    prefix = f"{MODELS[name].architecture}.rope"
    return original, rewritten(original, entries={f"{prefix}.{key}": entry for key, entry in entries.items()})


@pytest.mark.parametrize("entries", [FEWER_DIMENSIONS, LINEAR, OLD_KEY, BOTH_KEYS])
@pytest.mark.parametrize("name", ["nomic_bert", "modern_bert", "gemma_embedding", "qwen3_embedding"])
def test_vectors_are_those_of_llama_cpp(tmp_path, name, entries):
    if name == "qwen3_embedding" and entries is FEWER_DIMENSIONS:
        pytest.skip("llama.cpp asserts that all dimensions are rotated")
    original, path = changed(name, tmp_path, entries)
    expected = reference(name)
    with closing(tiny_models.open_engine(path)) as engine:
        of_llama = tiny_models.rows(engine, expected.ids, expected.pooling)
    with open_graph(path, expected.pooling) as graph:
        found = graph.rows(expected.ids)
    assert tiny_models.cosines(found, of_llama).min() > LEAST_COSINE
    with open_graph(original, expected.pooling) as graph:
        assert tiny_models.cosines(found, graph.rows(expected.ids)).min() < 0.999


@pytest.mark.parametrize("entries", [FEWER_DIMENSIONS, LINEAR])
@pytest.mark.parametrize("name", ["jina_v3", "gte"])
def test_models_that_llama_cpp_does_not_run_are_rotated_so(tmp_path, name, entries):
    original, path = changed(name, tmp_path, entries)
    expected = reference(name)
    with open_graph(path, expected.pooling) as graph:
        found = graph.rows(expected.ids)
    with open_graph(original, expected.pooling) as graph:
        assert tiny_models.cosines(found, graph.rows(expected.ids)).min() < 0.9995


@pytest.mark.parametrize(("n_rotated", "problem"), [(0, "is 0"), (7, "no halves"), (18, "at most 16")])
def test_dimensions_that_cannot_be_rotated(tmp_path, n_rotated, problem):
    _, path = changed("nomic_bert", tmp_path, {"dimension_count": (n_rotated, UINT32)})
    assert problem in load_error(path)


def test_a_whole_number_may_stand_for_a_fraction(tmp_path):
    original, path = changed("nomic_bert", tmp_path, {"freq_base": (500, UINT32)})
    expected = reference("nomic_bert")
    same = changed("nomic_bert", tmp_path / "fraction", {"freq_base": (500.0, FLOAT32)})[1]
    vectors = []
    for file in (path, same, original):
        with open_graph(file, expected.pooling) as graph:
            vectors.append(graph.rows(expected.ids))
    assert (vectors[0] == vectors[1]).all()
    assert (vectors[0] != vectors[2]).any()


def test_a_fraction_is_no_size(tmp_path):
    _, path = changed("nomic_bert", tmp_path, {"dimension_count": (8.0, FLOAT32)})
    assert "rope.dimension_count is 8.0" in load_error(path)


@pytest.mark.parametrize(
    ("name", "key", "value", "usual"),
    [
        ("nomic_bert", "rope.scaling.attn_factor", 0.5, "1"),
        ("gemma_embedding", "rope.dimension_count_swa", 16, "32"),
        ("gemma_embedding", "attention.key_length_swa", 16, "32"),
        ("gemma_embedding", "attention.value_length_swa", 16, "32"),
        ("qwen3_embedding", "attention.value_length", 16, "32"),
        ("bert", "attention.value_length", 8, "16"),
        ("t5_of_llama_cpp", "attention.head_count_kv", 2, "4"),
        ("qwen3_embedding", "nextn_predict_layers", 1, "0"),
        ("bert", "embedding_length_out", 32, "64"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(tmp_path, name, key, value, usual):
    architecture = MODELS[name].architecture
    entry = (value, FLOAT32 if isinstance(value, float) else UINT32)
    path = rewritten(write_gguf(name, tmp_path / "m.gguf"), entries={f"{architecture}.{key}": entry})
    found = support.refusal(read_header(path), ModelConfig())
    assert found == f"its graph for {architecture} has no {key} of {value}, only {usual}"
