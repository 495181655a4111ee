"""Decoders from safetensors: llama.cpp gives the vectors of transformers and sentence-transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_embed.convert.convert import convert_directory
from gguf_embed.convert.decoders import plan_decoder
from gguf_embed.convert.rope import read_rope
from gguf_embed.convert.source import ModelSourceDirectory, open_source
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.convert.tokenizers.decoder_directory import (
    MODELS,
    N_CTX,
    N_EMBD,
    VECTOR_TEXTS,
    DecoderModel,
    write_decoder_directory,
)
from tests.convert.tokenizers.references import TEXTS, reference_tokenizers, reference_vectors
from tests.engines.contexts import context_spec

EMBEDDING_MODELS = [name for name, model in MODELS.items() if not model.rerank]


def ignore(_: str) -> None:
    pass


def write_source(path: Path, model: DecoderModel, **config: object) -> Path:
    return write_decoder_directory(path, model, reference_tokenizers()[model.tokenizer], **config)


def convert(folder: Path, model: DecoderModel, outtype: str = "f32", **config: object) -> Path:
    output = folder / "model.gguf"
    convert_directory(write_source(folder / "hf", model, **config), output, outtype, report=ignore)
    return output


def vectors(path: Path, model: DecoderModel, pooling: Pooling | None = None) -> NDArray[np.float32]:
    """Of all `VECTOR_TEXTS`, each alone, tokenized by llama.cpp; the tokens are checked on the way."""
    expected_ids = reference_tokenizers()[model.tokenizer]["ids"]
    engine = LlamaEngine(LlamaEngineConfig(path))
    try:
        context = engine.open_context(context_spec(pooling or engine.info.pooling or Pooling.NONE, N_CTX, 1))
        try:
            rows = []
            for key in VECTOR_TEXTS:
                ids = engine.codec.tokenize(TEXTS[key], add_special=True, parse_special=True)
                assert ids == expected_ids[key]
                rows.append(context.embed([ids], 1).matrix[0])
            return np.array(rows)
        finally:
            context.close()
    finally:
        engine.close()


def worst_cosine(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    products = (found * expected).sum(axis=1)
    return float((products / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)).min())


@pytest.mark.parametrize("name", EMBEDDING_MODELS)
def test_vectors_are_those_of_transformers(tmp_path, name):
    model, expected = MODELS[name], reference_vectors(name)
    found = vectors(convert(tmp_path, model), model)
    assert worst_cosine(found, expected) > 0.99999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(expected, axis=1), rtol=1e-3)


@pytest.mark.parametrize(("outtype", "least"), [("f16", 0.9999), ("bf16", 0.999), ("q8_0", 0.99)])
@pytest.mark.parametrize("name", ["qwen3_embedding", "gemma_embedding"])
def test_smaller_types_stay_close(tmp_path, name, outtype, least):
    path = convert(tmp_path, MODELS[name], outtype)
    types = {tensor.type for tensor in read_header(path).tensors.values()}
    assert types == {"F32", outtype.upper()}
    assert worst_cosine(vectors(path, MODELS[name]), reference_vectors(name)) > least


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gemma_plain", {"sliding_window": 64}),
        ("gemma_plain", {"layer_types": ["full_attention", *["sliding_attention"] * 3]}),
        ("gemma_plain", {"rope_local_base_freq": 1000000.0}),
        ("gemma_plain", {"rope_theta": 10000.0}),
        ("qwen3_embedding", {"rope_theta": 10000.0}),
        ("qwen3_embedding", {"rms_norm_eps": 0.1}),
    ],
)
def test_each_setting_reaches_the_vectors(tmp_path, name, config):
    path = convert(tmp_path, MODELS[name], **config)
    assert worst_cosine(vectors(path, MODELS[name]), reference_vectors(name)) < 0.9999


def test_dense_modules_are_applied_after_the_pooling(tmp_path):
    plain = vectors(convert(tmp_path, replace(MODELS["gemma_embedding"], dense=())), MODELS["gemma_embedding"])
    assert worst_cosine(plain, reference_vectors("gemma_embedding")) < 0.9


def test_weights_with_the_longer_names_and_a_head_give_the_same_plan(tmp_path):
    model = MODELS["qwen3_embedding"]
    bare = plan_decoder(open_source(write_source(tmp_path / "bare", model)), "f32")
    head = {"lm_head.weight": np.zeros((8, N_EMBD), np.float32)}
    whole = plan_decoder(
        open_source(write_source(tmp_path / "whole", replace(model, prefix="model."), extra=head)), "f32"
    )
    assert {t.name: t.shape for t in bare.tensors} == {t.name: t.shape for t in whole.tensors}
    assert not any(tensor.name.startswith("output.") for tensor in whole.tensors)


def test_metadata_says_what_llama_cpp_needs(tmp_path):
    metadata = read_header(convert(tmp_path, MODELS["gemma_embedding"])).metadata
    expected = {
        "general.architecture": "gemma-embedding",
        "gemma-embedding.context_length": N_CTX,
        "gemma-embedding.embedding_length": N_EMBD,
        "gemma-embedding.block_count": 4,
        "gemma-embedding.attention.head_count": 4,
        "gemma-embedding.attention.head_count_kv": 2,
        "gemma-embedding.attention.key_length": 32,
        "gemma-embedding.attention.causal": False,
        "gemma-embedding.attention.sliding_window": 16,
        "gemma-embedding.rope.freq_base": 1000000.0,
        "gemma-embedding.rope.freq_base_swa": 10000.0,
        "gemma-embedding.pooling_type": 1,
        "gemma-embedding.dense_2_feat_out": 160,
        "gemma-embedding.dense_3_feat_in": 160,
    }
    assert {key: metadata.get(key) for key in expected} == expected


def test_pooling_none_declared_is_left_to_the_user(tmp_path):
    path = convert(tmp_path, replace(MODELS["qwen3_embedding"], pooling=""))
    assert "qwen3.pooling_type" not in read_header(path).metadata
    assert worst_cosine(
        vectors(path, MODELS["qwen3_embedding"], Pooling.LAST), reference_vectors("qwen3_embedding")
    ) > 0.99999  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("qwen3_embedding", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("qwen3_embedding", {"use_sliding_window": True}, "use_sliding_window True"),
        ("qwen3_embedding", {"attention_bias": True}, "attention_bias True"),
        ("qwen2_embedding", {"is_causal": False}, "is_causal False"),
        ("qwen2_embedding", {"auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}, "modeling_qwen.Qwen2Model"),
        ("qwen3_embedding", {"num_hidden_layers": 4}, r"blk.3.attn_q.weight should be .* missing"),
        ("qwen3_embedding", {"num_hidden_layers": 2}, r"layers.2.* is unknown"),
        ("qwen3_embedding", {"intermediate_size": 95}, r"ffn_gate.weight should be .95, 64., but it is .96, 64."),
        ("qwen3_embedding", {"vocab_size": 100}, r"token_embd.weight should be .100, 64."),
        ("qwen3_embedding", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "type 'llama3' cannot"),
        ("gemma_plain", {"use_bidirectional_attention": None}, "use_bidirectional_attention is not true"),
        ("gemma_plain", {"query_pre_attn_scalar": 64}, "query_pre_attn_scalar 64"),
        ("gemma_plain", {"layer_types": ["full_attention"]}, "layer_types with 4 layers"),
        ("gemma_plain", {"layer_types": ["full_attention"] * 4}, "some sliding_attention and some full_attention"),
        ("gemma_plain", {"layer_types": None}, "some sliding_attention and some full_attention"),  # each sixth is full
        ("gemma_plain", {"rope_scaling": {"rope_type": "linear", "factor": 8}}, "rope_scaling cannot"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(tmp_path, name, config, message):
    with pytest.raises(ModelFileError, match=message):
        convert(tmp_path, MODELS[name], **config)
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("dense", [((N_EMBD, 32),), ((32, N_EMBD),), ((N_EMBD, 160), (96, N_EMBD))])
def test_dense_modules_that_llama_cpp_would_end_the_process_over_are_refused(tmp_path, dense):
    with pytest.raises(ModelFileError, match=r"Dense modules from .*llama\.cpp needs 64"):
        convert(tmp_path, replace(MODELS["gemma_plain"], dense=dense))


def test_dense_modules_with_an_activation_are_refused(tmp_path):
    source = write_source(tmp_path, MODELS["gemma_embedding"])
    config = source / "2_Dense" / "config.json"
    config.write_text(config.read_text().replace("linear.Identity", "activation.Tanh"))
    with pytest.raises(ModelFileError, match="Tanh activation"):
        plan_decoder(open_source(source), "f32")


YARN = {"factor": 4.0, "original_max_position_embeddings": 128}


@pytest.mark.parametrize(
    ("config", "theta", "sliding", "scaling"),
    [
        ({}, 10000.0, None, None),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, None, None),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None, None),
        ({"rope_theta": 1e6, "rope_local_base_freq": 1e4}, 1e6, 1e4, None),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
            1e6,
            1e4,
            None,
        ),
        ({"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **YARN}}, 1e6, None, "yarn"),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "yarn", **YARN}}, 1e6, None, "yarn"),
    ],
)
def test_rope_is_read_in_either_spelling(config, theta, sliding, scaling):
    rope = read_rope(ModelSourceDirectory(Path(), config))
    assert (rope.theta, rope.theta_sliding, rope.scaling.get("rope_type")) == (theta, sliding, scaling)


def test_yarn_is_written(tmp_path):
    metadata = read_header(
        convert(tmp_path, MODELS["qwen3_embedding"], rope_scaling={"rope_type": "yarn", **YARN})
    ).metadata
    assert metadata["qwen3.rope.scaling.type"] == "yarn"
    assert metadata["qwen3.rope.scaling.factor"] == 4.0
    assert metadata["qwen3.rope.scaling.original_context_length"] == 128
