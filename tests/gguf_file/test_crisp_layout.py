"""Which files are CrispEmbed's, and what they say under our keys."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.bounds import header_problems
from gguf_embed.gguf_file.crisp_layout import architecture_of, our_metadata, our_names
from gguf_embed.gguf_file.facts import check_can_embed
from gguf_embed.gguf_file.graph_only import why_not_llama
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.stored_tokenizer import read_stored_tokenizer

LAYER = "enc.0.attn.q.weight"
KIND = "tokenizer.ggml.type"
PRE = "tokenizer.ggml.pre"


@pytest.mark.parametrize(
    ("architecture", "metadata", "tensors", "ours"),
    [
        ("bert", {KIND: 0}, {LAYER}, "bert"),
        ("bert", {KIND: 2}, {LAYER}, "bert"),
        ("bert", {KIND: 0}, {LAYER, "rel_attn_bias.weight"}, "mpnet"),
        ("bert", {KIND: 1, PRE: "modern-bert", "bert.rope_theta_global": 1.0}, {LAYER}, "modern-bert"),
        ("bert", {KIND: 1}, {LAYER}, "bert"),  # older files do not name the rules
        ("bert", {KIND: 1, "tokenizer.ggml.add_bos_token": True}, {LAYER}, None),  # newer ones do, if they know them
        ("bert", {KIND: 1, PRE: "o200k"}, {LAYER}, None),
        ("bert", {KIND: 1, PRE: "modern-bert", "tokenizer.ggml.is_spm_bpe": 1}, {LAYER}, None),
        ("bert", {KIND: 1, PRE: "modern-bert", "tokenizer.ggml.ignore_merges": True}, {LAYER}, None),
        ("bert", {KIND: 1, PRE: "modern-bert", "tokenizer.ggml.add_eos_token": False}, {LAYER}, None),
        ("bert", {KIND: 2}, {LAYER, "rel_embd.weight"}, None),  # DeBERTa
        ("bert", {KIND: 0, "bert.rope_theta": 1.0}, {LAYER}, None),  # NomicBERT, GTE
        ("bert", {}, {"blk.0.attn_q.weight", "classifier.dense.weight"}, "bert"),
        ("xlmr", {"tokenizer.ggml.model": "llama"}, {"blk.0.attn_q.weight"}, "bert"),
        ("xlmr", {"tokenizer.ggml.model": "bert"}, {"blk.0.attn_q.weight"}, None),  # RoBERTa, with mangled entries
        # llama.cpp's own
        ("bert", {"tokenizer.ggml.model": "bert"}, {"blk.0.attn_q.weight", "cls.weight", "cls.output.weight"}, None),
        ("bert", {"tokenizer.ggml.model": "t5"}, {"blk.0.attn_q.weight"}, None),
        ("clip_text", {}, {LAYER}, None),
        ("t5encoder", {}, {"enc.blk.0.attn_q.weight"}, None),
    ],
)
def test_the_architecture(architecture, metadata, tensors, ours):
    assert architecture_of(architecture, metadata, tensors) == ours


@pytest.mark.parametrize(
    ("metadata", "tensors", "pooling"),
    [
        ({}, {LAYER}, 1),
        ({"bert.pooling_method": 1}, {LAYER}, 2),
        ({"bert.pooling_method": 7}, {LAYER}, 8),  # which nothing accepts
        ({"bert.pooling_type": 3}, {"blk.0.attn_q.weight"}, 3),
        ({"bert.pooling_method": 0}, {LAYER, "classifier.out_proj.weight"}, 4),
    ],
)
def test_the_pooling(metadata, tensors, pooling):
    assert our_metadata(metadata, "bert", tensors)["bert.pooling_type"] == pooling


def test_the_head():
    names = our_names({"pooler.weight", "classifier.weight"}, "bert")
    assert names == {"pooler.weight": "cls.weight", "classifier.weight": "cls.output.weight"}
    names = our_names({"pooler.weight", "classifier.dense.weight", "classifier.out_proj.bias"}, "bert")
    assert set(names.values()) == {"cls.weight", "cls.output.bias"}
    head = {"classifier.dense.weight", "classifier.out_proj.weight"}
    assert our_metadata({"bert.classifier_act": "gelu"}, "bert", head)["bert.classifier.activation"] == "gelu"
    assert our_metadata({}, "modern-bert", head)["modern-bert.classifier.activation"] == "tanh"


def written(path: Path, *names: str, **keys: int | str | bool) -> Path:
    writer = gguf.GGUFWriter(path, "bert")
    for key, value in keys.items():
        add = {int: writer.add_uint32, str: writer.add_string, bool: writer.add_bool}[type(value)]
        add(key.replace("__", "."), value)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "</s>", "a"])
    for name in names:
        writer.add_tensor(name, np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_one_that_is_not_read_says_so_and_is_not_llama_cpps(tmp_path):
    path = written(tmp_path / "m.gguf", LAYER, tokenizer__ggml__type=1, tokenizer__ggml__pre="o200k")
    header = read_header(path)
    assert header.architecture == "bert"
    assert why_not_llama(header) == "it does not read CrispEmbed's layout"
    with pytest.raises(ModelFileError, match=r"is in CrispEmbed's layout, .*: convert the original"):
        check_can_embed(header)


def test_the_same_tensor_twice_is_refused(tmp_path):
    path = written(tmp_path / "m.gguf", LAYER, "blk.0.attn_q.weight", tokenizer__ggml__type=0)
    with pytest.raises(ModelFileError, match="a tensor twice"):
        read_header(path)


def test_missing_merges_are_named(tmp_path):
    path = written(tmp_path / "m.gguf", LAYER, tokenizer__ggml__type=1)
    with pytest.raises(ModelFileError, match=r"tokenizer\.merges is missing"):
        read_stored_tokenizer(read_header(path))


def test_keys_that_are_made_here_are_not_believed(tmp_path):
    keys = {"gguf-embed__merges__offset": 2**31, "gguf-embed__merges__size": 2**31, "gguf-embed__crisp_layout": True}
    keys |= {"tokenizer__ggml__model": "huggingface", "gguf-embed__unigram": True}
    header = read_header(written(tmp_path / "m.gguf", "blk.0.attn_q.weight", **keys))
    assert not [key for key in header.metadata if key.startswith("gguf-embed.")]
    with pytest.raises(ModelFileError, match=r"tokenizer\.huggingface\.json is missing"):
        read_stored_tokenizer(header)
    assert list(header_problems(header)) == []
