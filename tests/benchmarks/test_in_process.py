"""The comparison in process: what the loops do themselves, the exported graph, the table, and a short whole run."""

from __future__ import annotations

import os
from importlib import import_module
from random import Random

import numpy as np
import pytest

from benchmarks import in_process
from benchmarks.in_process import (
    Corpus,
    InProcessRun,
    InProcessSettings,
    Vocabulary,
    compare_in_process,
    make_tokens,
    read_vocabulary,
    render_in_process,
)
from benchmarks.limit import MatmulRate
from benchmarks.loops.batches import batches_by_length, fill, pad, pool
from benchmarks.loops.libraries import torch_name
from benchmarks.loops.onnx_graph import write_onnx
from benchmarks.loops.read_gguf import read_bert
from benchmarks.loops.sentences import read_texts, write_texts
from benchmarks.loops.weights import Bert
from benchmarks.models import SIZES, ModelSize, write_model
from gguf_embed.errors import ConfigError

SIZE = ModelSize("bert", 32, 2, 2, 64, 512, SIZES["bert-base"].n_vocab)
SENTENCE_TRANSFORMERS = [f"sentence-transformers {kind}" for kind in ("F32", "ONNX F32", "OpenVINO")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(SIZE, tmp_path_factory.mktemp("model") / "m.gguf")


def test_batches_begin_with_the_longest_texts():
    assert batches_by_length([[1], [1, 1, 1], [1, 1]], 2) == [[1, 2], [0]]


def test_padding_is_zero_in_ids_and_mask():
    ids, mask = pad([[7, 8], [9]])
    np.testing.assert_array_equal(ids, [[7, 8], [9, 0]])
    np.testing.assert_array_equal(mask, [[1, 1], [1, 0]])


def test_sentence_transformers_reads_the_tokens_that_the_other_loops_get():
    texts = [[101, 0, 2000, 102], [101, 102]]
    for read, padded in zip(read_texts(write_texts(texts)), pad(texts), strict=True):
        np.testing.assert_array_equal(read, padded)


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [3 / 5, 4 / 5]), ("cls", [1.0, 0.0])])
def test_pooling_reads_no_padding_and_gives_unit_vectors(pooling, expected):
    hidden = np.array([[[6, 0], [0, 8], [99, 99]]], np.float32)
    np.testing.assert_allclose(pool(hidden, np.array([[1, 1, 0]]), pooling), [expected], atol=1e-6)


def test_vectors_return_to_the_order_of_the_texts():
    parts = [([2, 0], np.array([[2.0], [0.0]], np.float32)), ([1], np.array([[1.0]], np.float32))]
    np.testing.assert_array_equal(fill(3, parts), [[0], [1], [2]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd_norm.bias", "embeddings.LayerNorm.bias"),
        ("blk.11.ffn_up.weight", "encoder.layer.11.intermediate.dense.weight"),
        ("blk.0.attn_output_norm.bias", "encoder.layer.0.attention.output.LayerNorm.bias"),
    ],
)
def test_tensors_get_the_names_of_transformers(name, expected):
    assert torch_name(name) == expected


def test_texts_have_random_lengths_and_special_tokens_at_both_ends():
    vocabulary = Vocabulary(101, 102, 500)
    texts = make_tokens(Random(1), Corpus("any", 400, (12, 30)), vocabulary, 0.5)
    assert len(texts) == 200
    assert {(text[0], text[-1]) for text in texts} == {(101, 102)}
    assert {len(text) for text in texts} == set(range(12, 31))
    assert all(0 <= token < 500 for text in texts for token in text)


def test_the_vocabulary_is_that_of_the_file(model):
    assert read_vocabulary(model) == Vocabulary(101, 102, 30_522)


def test_weights_survive_being_stored(model, tmp_path):
    bert = read_bert(model)
    stored = Bert.load(bert.save(tmp_path / "bert.npz"))
    assert stored.sizes == bert.sizes
    assert stored.sizes.n_head == 2
    np.testing.assert_array_equal(stored.weights["blk.1.ffn_up.weight"], bert.weights["blk.1.ffn_up.weight"])
    assert stored.weights["blk.1.ffn_up.weight"].shape == (64, 32)


def test_another_architecture_is_refused(tmp_path):
    path = write_model(ModelSize("modern-bert", 32, 2, 2, 64, 64, 5000), tmp_path / "m.gguf")
    with pytest.raises(ConfigError, match="only a BERT"):
        read_bert(path)


def test_the_exported_graph_has_the_inputs_and_output_of_other_exports(model, tmp_path):
    onnx = pytest.importorskip("onnx")
    exported = onnx.load(str(write_onnx(read_bert(model), tmp_path / "bert.onnx")))
    onnx.checker.check_model(exported, full_check=True)
    assert [entry.name for entry in exported.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [entry.name for entry in exported.graph.output] == ["last_hidden_state"]


def test_padding_changes_nothing_in_the_exported_graph(model, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    session = import_module("onnxruntime").InferenceSession(str(write_onnx(read_bert(model), tmp_path / "bert.onnx")))

    def hidden(texts):
        ids, mask = pad(texts)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
        return session.run(None, feeds)[0]

    text = [101, 2000, 3000, 102]
    np.testing.assert_allclose(hidden([text, [101, *range(2000, 2040), 102]])[0, :4], hidden([text])[0], atol=1e-4)


def test_the_table_pairs_the_runs_of_one_round():
    limit = MatmulRate("numpy F32", "2 threads", 2e9)
    runs = [
        InProcessRun(round_, "short", loop, "32", 100, 2000, 1e9, seconds * (1 + round_), 0.9999, limit)
        for round_ in (0, 1)
        for loop, seconds in (("gguf-embed", 1.0), ("OpenVINO", 1.5))
    ]
    text = render_in_process(runs, 2)
    assert "2 threads" in text
    assert "1.50x" in text
    assert "1.50..1.50" in text
    assert "numpy F32" in text
    assert " 38% " in text  # of 2 GFLOP/s, the median of 1 and 0.5


@pytest.mark.process
def test_a_short_comparison_names_the_loops_that_cannot_run_and_agrees_with_the_others(model, monkeypatch):
    monkeypatch.setattr(in_process, "CORPORA", (Corpus("tiny", 64, (4, 8)),))
    limits = map(str, range(100))
    monkeypatch.setattr(in_process, "measure_rates", lambda *_: (MatmulRate(next(limits), "", 1e9),))
    settings = InProcessSettings(model, "/no/such/python", 1, n_rounds=2, cache=model.parent)
    said = []
    runs = compare_in_process(settings, said.append)
    assert {(run.round, run.limit.name) for run in runs} == {(1, "0"), (2, "1")}  # none is measured to warm up
    assert runs[0].loop == "gguf-embed"
    assert min(run.min_cosine for run in runs) > 0.999
    skipped = {line.partition(":")[0] for line in said if line.startswith("skipping ")}
    assert skipped >= {"skipping torch F32", *(f"skipping {name}" for name in SENTENCE_TRANSFORMERS)}


@pytest.mark.process
def test_sentence_transformers_agrees_with_every_backend(model, monkeypatch):
    python = os.environ.get("TORCH_PYTHON")
    if python is None:
        pytest.skip("needs TORCH_PYTHON, an interpreter with sentence-transformers[onnx,openvino]")
    monkeypatch.setattr(in_process, "CORPORA", (Corpus("tiny", 64, (4, 40)),))
    said = []
    runs = compare_in_process(InProcessSettings(model, python, 1, n_rounds=1, cache=model.parent), said.append)
    assert set(SENTENCE_TRANSFORMERS) <= {run.loop for run in runs}, said
    assert min(run.min_cosine for run in runs) > 0.999
