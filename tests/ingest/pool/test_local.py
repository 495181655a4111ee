"""A job's texts, embedded in this process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_embed.embedder.embedder import Embedder
from gguf_embed.errors import InvalidRequest, NotSupported, Unavailable
from gguf_embed.ingest.pool.base import EmbedPool
from gguf_embed.ingest.pool.local import LocalPool

LONG = "the " * 100


@pytest.fixture
def open_pool(models: Path, cache_dir: Path) -> Iterator[Callable[..., LocalPool]]:
    opened: list[LocalPool] = []

    def open_(prompts: dict[str, str] | None = None, **arguments: Any) -> LocalPool:
        model = Embedder(models / "encoder.gguf", cache=cache_dir, prompts=prompts, engine="llama", precision="f32")
        opened.append(LocalPool(model, **arguments))
        return opened[-1]

    yield open_
    for pool in opened:
        pool.close()


def test_the_facts_are_those_of_the_model(open_pool, models):
    pool: EmbedPool = open_pool({"document": "a red "})
    facts = pool.facts
    assert (facts.name, facts.dimensions, facts.pooling, facts.max_tokens) == ("encoder", 32, "mean", 64)
    assert (facts.prompt, facts.normalized) == ("a red ", True)
    assert facts.fingerprint == "sha256:" + hashlib.sha256((models / "encoder.gguf").read_bytes()).hexdigest()


def test_texts_that_fail_are_failures_in_words_and_the_others_are_embedded(open_pool):
    pool = open_pool()
    texts = ["hello", LONG, "cat", "cat", LONG, "x" * 1_000_001]
    found = pool.embed(texts)
    assert found.failures == {
        1: "has 102 tokens, the limit per text is 64",
        4: "has 102 tokens, the limit per text is 64",
        5: "is too large (1,000,001 characters, the limit per text is 1,000,000): split it",
    }
    alone = pool.embed(["hello", "cat"])
    np.testing.assert_allclose(found.vectors[[0, 2, 3]], alone.vectors[[0, 1, 1]], atol=3e-3)
    assert not found.vectors[[1, 4, 5]].any()
    assert (found.vectors.shape, found.vectors.dtype) == ((6, 32), np.float32)
    assert (found.n_tokens, alone.n_tokens, alone.failures) == (9, 6, {})


@pytest.mark.parametrize(("texts", "n_failures"), [([], 0), ([LONG], 1), ([LONG, LONG], 2)])
def test_no_texts_and_failures_only_are_matrices_too(open_pool, texts, n_failures):
    found = open_pool().embed(texts)
    assert found.vectors.shape == (len(texts), 32)
    assert len(found.failures) == n_failures


def test_prompt_dimensions_and_truncation_are_applied(open_pool):
    pool = open_pool({"document": "a red "}, dimensions=8, truncate=True)
    plain = open_pool(prompt=None)
    assert (pool.facts.dimensions, plain.facts.prompt) == (8, "")
    cut = plain.embed(["a red mat"]).vectors[:, :8]
    np.testing.assert_allclose(pool.embed(["mat"]).vectors, cut / np.linalg.norm(cut), atol=3e-3)
    assert pool.embed([LONG]).failures == {}


def test_an_unknown_prompt_is_refused_at_the_start(open_pool):
    with pytest.raises(InvalidRequest, match='no "documnt"'):
        open_pool(prompt="documnt")


def test_a_reranker_ends_the_job(models, cache_dir):
    with (
        Embedder(models / "reranker.gguf", cache=cache_dir, engine="llama") as model,
        pytest.raises(NotSupported, match="reranker"),
    ):
        LocalPool(model).embed(["a"])


def test_offsets_are_of_the_texts_own_tokens(open_pool):
    assert open_pool().token_offsets("hello  cat") == [(0, 5), (7, 10)]


def test_several_threads_get_their_own_vectors(open_pool):
    pool = open_pool()
    batches = [[f"the cat {batch} {number}" for number in range(20)] for batch in range(12)]
    expected = pool.embed([text for batch in batches for text in batch]).vectors
    with ThreadPoolExecutor(pool.n_at_once) as executor:
        found = np.concatenate([embedded.vectors for embedded in executor.map(pool.embed, batches)])
        assert len(set(map(tuple, executor.map(pool.token_offsets, ["the cat"] * 20)))) == 1
    assert (found * expected).sum(axis=1).min() > 0.9999


def test_close_ends_the_model_too(open_pool):
    before = threading.enumerate()
    pool = open_pool()
    pool.embed(["a"])
    pool.close()
    pool.close()
    assert threading.enumerate() == before
    with pytest.raises(Unavailable, match="closed"):
        pool.embed(["a"])
