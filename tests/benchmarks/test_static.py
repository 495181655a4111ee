"""The comparison with model2vec: its texts, model and table; and the whole of it where the package is installed."""

from __future__ import annotations

import os
from random import Random

import numpy as np
import pytest

from benchmarks.static import (
    StaticRun,
    StaticSettings,
    compare_static,
    embed_in_process,
    make_texts,
    render_static,
    write_model,
)
from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.convert.static import convert_static
from gguf_embed.errors import ConfigError
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel


def test_texts_are_as_asked_and_their_words_unequally_frequent():
    texts = make_texts(Random(1), ["first", "second", *(f"word{i}" for i in range(998))], 500, 10)
    assert [len(text.split()) for text in texts] == [10] * 500
    assert texts == make_texts(Random(1), ["first", "second", *(f"word{i}" for i in range(998))], 500, 10)
    joined = " ".join(texts).lower()
    assert joined.count("first") > joined.count("second") > joined.count("word997")


def test_the_made_up_model_answers_with_unit_vectors(tmp_path):
    convert_static(write_model(tmp_path / "model"), tmp_path / "m.gguf", "f32", report=lambda line: None)
    config = ModelConfig(compute=ComputeConfig(n_threads=1))
    loaded = load_model(LocatedModel(tmp_path / "m.gguf", "m"), config, tmp_path, Metrics(), lambda line: None)
    try:
        vectors = embed_in_process(loaded, ["hello world", "a cat"] * 700)
    finally:
        loaded.close()
    assert vectors.shape == (1400, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_the_table_shows_medians_and_spread_of_the_ratios():
    runs = [StaticRun("short", 100, 1.0, process_s, 2.0, 0.9999) for process_s in (0.5, 0.25, 1.0)]
    text = render_static(runs, 1)
    assert "1 thread:" in text
    assert "2.00 (1.00 to 4.00)" in text
    assert "0.50 (0.50 to 0.50)" in text


def test_without_the_package_the_error_has_the_command_to_install_it(monkeypatch):
    monkeypatch.setattr("benchmarks.static.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install model2vec"):
        compare_static(StaticSettings(), lambda line: None)


def test_a_short_comparison_runs_and_leaves_the_process_as_it_was():
    pytest.importorskip("model2vec", reason="the package model2vec is not installed")
    before = (os.sched_getaffinity(0), os.environ.get("TOKENIZERS_PARALLELISM"))
    runs = compare_static(StaticSettings(n_rounds=1, factor=0.01), lambda line: None)
    assert [run.size for run in runs] == ["short", "long"]
    assert min(run.min_cosine for run in runs) > 0.9999
    assert (os.sched_getaffinity(0), os.environ.get("TOKENIZERS_PARALLELISM")) == before
