"""Qwen3 rerankers: llama.cpp's score is the probability of "yes" against "no" that transformers gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.convert.source import open_source
from gguf_embed.convert.yes_no_head import is_yes_no_reranker, plan_yes_no_head
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.convert.tokenizers.decoder_directory import (
    MODELS,
    N_CTX,
    VECTOR_TEXTS,
    random_weights,
    write_decoder_directory,
)
from tests.convert.tokenizers.references import n_vocab_of, reference_tokenizers, reference_vectors
from tests.engines.contexts import context_spec

MODEL = MODELS["qwen3_reranker"]
NAMED = {"_name_or_path": "Qwen/Qwen3-Reranker-0.6B"}


def ignore(_: str) -> None:
    pass


def write_source(path: Path, **config: object) -> Path:
    return write_decoder_directory(path, MODEL, reference_tokenizers()[MODEL.tokenizer], **config)


@pytest.mark.parametrize("tied", [True, False])
def test_scores_are_those_of_transformers(tmp_path, tied):
    n_vocab = n_vocab_of(reference_tokenizers()[MODEL.tokenizer])
    head = {"lm_head.weight": random_weights(MODEL, n_vocab)["model.embed_tokens.weight"]}
    config = NAMED | ({} if tied else {"tie_word_embeddings": False, "extra": head})
    convert_directory(write_source(tmp_path / "hf", **config), tmp_path / "m.gguf", "f32", report=ignore)
    answers = np.exp(reference_vectors("qwen3_reranker"))
    expected = answers / answers.sum(axis=1, keepdims=True)
    assert np.ptp(expected[:, 0]) > 0.5
    engine = LlamaEngine(LlamaEngineConfig(tmp_path / "m.gguf", rank_head=True))
    assert (engine.info.pooling, engine.info.n_cls_out) == (Pooling.RANK, 2)
    # with flash attention the 16-bit KV memory shifts these logits of up to 15 by 0.05, a score by 0.005
    context = engine.open_context(context_spec(Pooling.RANK, N_CTX, 1, flash_attention=False))
    ids = reference_tokenizers()[MODEL.tokenizer]["ids"]
    found = [context.embed([ids[key]], 1).matrix[0] for key in VECTOR_TEXTS]
    context.close()
    engine.close()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_prompt_is_written_for_pairs(tmp_path):
    convert_directory(write_source(tmp_path / "qwen3-reranker"), tmp_path / "m.gguf", "q8_0", report=ignore)
    header = read_header(tmp_path / "m.gguf")
    template = header.metadata["tokenizer.chat_template.rerank"]
    assert "<Query>: {query}" in template
    assert "<Document>: {document}" in template
    assert header.tensors["cls.output.weight"].type == "F32"


@pytest.mark.parametrize(
    ("card", "config", "is_one"),
    [
        ("# Qwen3-Reranker-0.6B", {}, True),
        ("# Qwen3-Embedding-0.6B", {}, False),
        ("", NAMED, True),
        ("", {"_name_or_path": "Qwen/Qwen3-0.6B"}, False),
    ],
)
def test_a_reranker_is_known_by_its_name(tmp_path, card, config, is_one):
    source = write_source(tmp_path, **config)
    (source / "README.md").write_text(card)
    assert is_yes_no_reranker(open_source(source)) is is_one


def test_a_declared_pooling_makes_it_an_embedding_model(tmp_path):
    model = MODELS["qwen3_embedding"]
    source = write_decoder_directory(tmp_path, model, reference_tokenizers()[model.tokenizer], **NAMED)
    assert not is_yes_no_reranker(open_source(source))


def test_a_reranker_without_its_head_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"lm_head\.weight"):
        plan_yes_no_head(open_source(write_source(tmp_path, tie_word_embeddings=False)))
