"""Every kind of encoder that we convert: llama.cpp's results equal those of transformers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.gguf_file.facts import check_can_embed, file_type_name, has_rank_head, pooling_type
from gguf_embed.gguf_file.header import read_header
from gguf_embed.preprocessing.tokenizers import choose_tokenizer
from gguf_embed.types import Pooling
from tests.convert.encoders import tiny_models as tiny

Converted = Callable[..., Path]

WITH_NEWLINES = 10
"""The text that the tiny Unigram tokenizer, which has no charsmap, splits at newlines; llama.cpp does not."""


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Converted:
    """Converts a tiny model once per type."""
    folder = tmp_path_factory.mktemp("encoders")

    @cache
    def convert(name: str, outtype: str = "f32") -> Path:
        source = folder / name
        if not source.exists():
            tiny.write_directory(name, source)
        output = folder / f"{name}-{outtype}.gguf"
        convert_directory(source, output, outtype, report=lambda line: None)
        return output

    return convert


def vectors(path: Path, name: str) -> tiny.Array:
    engine = tiny.open_engine(path)
    try:
        return tiny.rows(engine, tiny.ids_of(tiny.reference(name)), pooling_type(read_header(path)))
    finally:
        engine.close()


def scores(path: Path, name: str) -> tiny.Array:
    engine = tiny.open_engine(path, rank_head=True)
    try:
        return tiny.rows(engine, tiny.ids_of(tiny.reference(name)), Pooling.RANK)
    finally:
        engine.close()


@pytest.mark.parametrize("name", tiny.EMBEDDERS)
def test_vectors_are_those_of_transformers(converted, name):
    assert tiny.cosines(vectors(converted(name), name), tiny.reference(name)["vectors"]).min() > 0.99999


@pytest.mark.parametrize("name", tiny.RERANKERS)
def test_scores_are_those_of_transformers(converted, name):
    expected = tiny.reference(name)["one_type"]  # llama.cpp knows one token type only
    found = scores(converted(name), name)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)


def test_a_model_with_token_types_for_pairs_is_converted_with_a_warning(tmp_path):
    source, lines = tiny.write_directory("bert_reranker", tmp_path / "hf"), []
    convert_directory(source, tmp_path / "m.gguf", "f32", report=lines.append)
    assert any(line.startswith("note: ") and "token type" in line for line in lines)
    stored = tiny.reference("bert_reranker")
    off = np.abs(scores(tmp_path / "m.gguf", "bert_reranker") - stored["logits"]).max()
    assert off > 0.1, "llama.cpp takes token types now: the warning can go"


@pytest.mark.parametrize("name", [name for name in tiny.RERANKERS if name != "bert_reranker"])
def test_a_model_without_token_types_is_converted_without_a_warning(tmp_path, name):
    lines: list[str] = []
    convert_directory(tiny.write_directory(name, tmp_path / "hf"), tmp_path / "m.gguf", "f32", report=lines.append)
    assert not any("token type" in line for line in lines)


@pytest.mark.parametrize(
    ("outtype", "least"), [("f16", 0.99999), ("bf16", 0.9999), ("q8_0", 0.999)], ids=["f16", "bf16", "q8_0"]
)
@pytest.mark.parametrize("name", tiny.EMBEDDERS)
def test_smaller_types_stay_near(converted, name, outtype, least):
    path = converted(name, outtype)
    assert file_type_name(read_header(path)) == outtype.upper()
    assert tiny.cosines(vectors(path, name), tiny.reference(name)["vectors"]).min() > least


@pytest.mark.parametrize(("outtype", "most"), [("f16", 0.005), ("bf16", 0.02), ("q8_0", 0.05)])
@pytest.mark.parametrize("name", tiny.RERANKERS)
def test_scores_of_smaller_types_stay_near(converted, name, outtype, most):
    found = scores(converted(name, outtype), name)
    np.testing.assert_allclose(found, tiny.reference(name)["one_type"], rtol=0, atol=most)


@pytest.mark.parametrize("name", tiny.EMBEDDERS)
def test_texts_get_the_ids_of_the_original_tokenizer(converted, name):
    engine = tiny.open_engine(converted(name))
    try:
        found = choose_tokenizer(engine.codec, None, "auto").encode_batch(tiny.TEXTS)
    finally:
        engine.close()
    expected = tiny.ids_of(tiny.reference(name))
    if name in ("xlm_roberta", "bert_unigram"):
        del found[WITH_NEWLINES], expected[WITH_NEWLINES]
    assert found == expected


@pytest.mark.parametrize("name", tiny.RERANKERS)
def test_pairs_in_llama_servers_form_have_the_ids_of_the_original_tokenizer(converted, name):
    """[BOS] query [EOS] [SEP] document [EOS], each where the file asks for it (llama-server's format_prompt_rerank)."""
    engine = tiny.open_engine(converted(name), rank_head=True)
    words, tokenizer = engine.codec.vocabulary(), choose_tokenizer(engine.codec, None, "auto")
    start = [words.bos_id] if words.adds_bos else []
    end = [words.eos_id] if words.adds_eos else []
    between = [words.sep_id] if words.adds_sep else []
    found = [
        [
            *start,
            *tokenizer.encode(query, add_special=False),
            *end,
            *between,
            *tokenizer.encode(text, add_special=False),
            *end,
        ]
        for query, text in tiny.PAIRS
    ]
    engine.close()
    assert found == tiny.ids_of(tiny.reference(name))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", {"general.architecture": "bert", "bert.context_length": 256, "tokenizer.ggml.token_type_count": 2}),
        ("bert_reranker", {"bert.pooling_type": 4, "bert.classifier.output_labels": ("LABEL_0",)}),
        ("distilbert", {"general.architecture": "bert", "tokenizer.ggml.token_type_count": 1}),
        ("roberta", {"bert.context_length": 128, "bert.pooling_type": 2, "tokenizer.ggml.token_type_count": 1}),
        ("roberta_reranker", {"bert.classifier.output_labels": ("contradiction", "entailment", "neutral")}),
        ("xlm_roberta", {"general.architecture": "bert", "bert.context_length": 128}),
        ("nomic_bert", {"nomic-bert.rope.freq_base": 1000.0, "nomic-bert.context_length": 256}),
        (
            "modern_bert",
            {
                "modern-bert.rope.freq_base": 160_000.0,
                "modern-bert.rope.freq_base_swa": 10_000.0,
                "modern-bert.attention.sliding_window": 8,
                "modern-bert.attention.sliding_window_pattern": 3,
                "modern-bert.vocab_size": 700,
                "modern-bert.hidden_activation": "gelu",
            },
        ),
        ("modern_bert_silu", {"modern-bert.hidden_activation": "silu", "modern-bert.pooling_type": 2}),
        ("modern_bert_reranker", {"modern-bert.classifier.pooling_type": 1, "modern-bert.pooling_type": 4}),
        (
            "modern_bert_reranker_cls",
            {
                "modern-bert.classifier.pooling_type": 2,
                "modern-bert.classifier.output_labels": ("LABEL_0", "LABEL_1"),
            },
        ),
    ],
)
def test_metadata_says_what_llama_cpp_needs(converted, name, expected):
    header = read_header(converted(name))
    check_can_embed(header)
    assert has_rank_head(header) == (name in tiny.RERANKERS)
    assert {key: header.metadata.get(key) for key in expected} == expected


def test_positions_of_roberta_begin_after_its_padding(converted):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(converted("roberta")).tensors}
    stored = tiny.weights_of("roberta")["embeddings.position_embeddings.weight"]
    np.testing.assert_array_equal(tensors["position_embd.weight"].data, stored[2:])


def test_nomics_own_config_means_the_same_as_transformers(tmp_path, converted):
    own = {
        "n_embd": 64, "n_head": 4, "n_layer": 2, "n_inner": 96, "n_positions": 8192, "layer_norm_epsilon": 1e-12,
        "activation_function": "swiglu", "prenorm": False, "causal": False, "qkv_proj_bias": False,
        "mlp_fc1_bias": False, "mlp_fc2_bias": False, "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False, "rotary_emb_scale_base": None, "max_trained_positions": 2048,
    }  # fmt: skip
    theirs = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "layer_norm_eps")
    gone = dict.fromkeys((*theirs, "max_position_embeddings", "rope_parameters", "hidden_act", "head_dim"))
    source = tiny.write_directory("nomic_bert", tmp_path / "nomic_bert", **own, **gone)
    convert_directory(source, tmp_path / "m.gguf", "f32", report=lambda line: None)
    found, expected = read_header(tmp_path / "m.gguf"), read_header(converted("nomic_bert"))
    assert found.metadata == expected.metadata | {"nomic-bert.context_length": 2048}
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        name: tensor.shape for name, tensor in expected.tensors.items()
    }
