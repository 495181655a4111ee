"""The models with random weights: both engines' files, whose texts are as long as the scenarios say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.loops.ours import embed_tokens
from benchmarks.models import SIZES, ModelSize, write_model
from benchmarks.scenarios import Scenario, make_workload
from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.gguf_file.facts import has_rank_head, pooling_type
from gguf_embed.gguf_file.header import read_header
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.preprocessing.tokens import prepare
from gguf_embed.types import Pooling

TINY = {
    "bert": ModelSize("bert", 32, 2, 2, 64, 128, SIZES["bert-base"].n_vocab),
    "modern-bert": ModelSize("modern-bert", 64, 4, 2, 96, 128, 5000),
}
BY_ARCHITECTURE = pytest.mark.parametrize("architecture", TINY)


def load(path: Path):
    config = ModelConfig(warmup=False, compute=ComputeConfig(n_threads=1))
    return load_model(LocatedModel(path, "m"), config, path.parent, Metrics(), lambda line: None)


@BY_ARCHITECTURE
def test_it_embeds_and_every_word_of_a_scenario_is_one_token(tmp_path, architecture):
    workload = make_workload(Scenario("any", 1, 4, (1, 3), (5, 120)), "1")
    loaded = load(write_model(TINY[architecture], tmp_path / "m.gguf"))
    try:
        texts = [text for request in workload.requests for text in request]
        tokens = [text.tokens for text in prepare(texts, loaded.tokenizer, loaded.limits, truncate=False)]
        vectors = embed_tokens(loaded, tokens)
    finally:
        loaded.close()
    assert list(map(len, tokens)) == [n for lengths in workload.n_tokens for n in lengths]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert abs(vectors @ vectors.T - np.eye(len(texts))).max() > 0.01


@BY_ARCHITECTURE
def test_a_cross_encoder_has_a_rank_head_that_is_loaded(tmp_path, architecture):
    path = write_model(TINY[architecture], tmp_path / "m.gguf", rank_head=True)
    header = read_header(path)
    assert has_rank_head(header)
    assert pooling_type(header) is Pooling.RANK
    loaded = load(path)
    loaded.close()
    assert loaded.info.n_scores == 1
