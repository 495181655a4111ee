"""Damaged files of the encoders that llama.cpp does not compute: one line that names the tensor or key."""

from __future__ import annotations

import json
from typing import Any

import gguf
import pytest

from gguf_embed.gguf_file.bounds import header_problems
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.static_format import TOKENIZER_JSON, TOKENS
from tests.engines.openvino.graph_models import write_gguf
from tests.engines.openvino.test_bad_files import NAN, UINT32, load_error, reshaped, rewritten, with_value, without

STRING = gguf.GGUFValueType.STRING
BUCKETS, REACH = "attention.relative_buckets_count", "attention.max_relative_positions"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("mpnet", "rel_attn_bias.weight"),
        ("mpnet", "position_embd.weight"),
        ("t5_gated", "enc.blk.0.attn_rel_b.weight"),
        ("t5_gated", "enc.blk.1.attn_o.weight"),
        ("t5_gated", "enc.output_norm.weight"),
        ("gte", "blk.1.attn_output.weight"),
        ("deberta_v2", "rel_embd.weight"),
        ("deberta_v2", "rel_embd_norm.bias"),
        ("deberta_v2", "blk.0.attn_k.bias"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path, model, name):
    path = rewritten(write_gguf(model, tmp_path / "m.gguf"), change=without(name))
    assert f"tensor {name} is missing" in load_error(path)


@pytest.mark.parametrize(
    ("model", "name", "shape"),
    [
        ("mpnet", "rel_attn_bias.weight", (32, 3)),
        ("mpnet", "rel_attn_bias.weight", (31, 4)),
        ("t5_gated", "enc.blk.0.attn_rel_b.weight", (4, 32)),
        ("deberta_v2", "rel_embd.weight", (15, 64)),
        ("gte", "blk.0.ffn_up.weight", (96, 64)),
    ],
)
def test_a_tensor_of_another_shape_is_named(tmp_path, model, name, shape):
    path = rewritten(write_gguf(model, tmp_path / "m.gguf"), change=reshaped(name, *shape))
    assert f"tensor {name} has shape {list(shape)}" in load_error(path)


@pytest.mark.parametrize(("model", "name"), [("mpnet", "rel_attn_bias.weight"), ("deberta_v2", "rel_embd.weight")])
def test_a_bias_that_is_no_number_is_named(tmp_path, model, name):
    path = rewritten(write_gguf(model, tmp_path / "m.gguf"), change=with_value(name, NAN, 3, 2))
    assert f"tensor {name} contains NaN or infinity (1 of " in load_error(path)


@pytest.mark.parametrize("value", [None, 0, 2, 31, 1024, 2**31 - 1])
@pytest.mark.parametrize("model", ["mpnet", "t5_gated", "deberta_v2"])
def test_an_impossible_number_of_buckets(tmp_path, model, value):
    architecture = {"t5_gated": "t5encoder", "deberta_v2": "deberta-v2"}.get(model, model)
    key = f"{architecture}.{BUCKETS}"
    path = rewritten(write_gguf(model, tmp_path / "m.gguf"), entries={key: None if value is None else (value, UINT32)})
    assert f"{key} is {value}" in load_error(path)
    assert value in (None, 31) or any(key in problem for problem in header_problems(read_header(path)))


@pytest.mark.parametrize("value", [None, 0, 1, 5, 2**31 - 1])
def test_an_impossible_reach_of_debertas_distances(tmp_path, value):
    key = f"deberta-v2.{REACH}"
    path = rewritten(
        write_gguf("deberta_v2", tmp_path / "m.gguf"), entries={key: None if value is None else (value, UINT32)}
    )
    assert f"{REACH} is {value}" in load_error(path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("position_offset", 514, "mpnet.context_length is 0"),
        ("max_position_embeddings", 600, "position_embd.weight has shape [514, 64], expected [600, 64]"),
        ("max_position_embeddings", None, "mpnet.context_length is None"),
        ("hidden_size", None, "mpnet.embedding_length is None"),
        ("num_attention_heads", 0, "mpnet.attention.head_count is 0"),
    ],
)
def test_crisp_embeds_layout(tmp_path, key, value, problem):
    entry = None if value is None else (value, UINT32)
    path = rewritten(write_gguf("mpnet_of_crisp_embed", tmp_path / "m.gguf"), entries={f"bert.{key}": entry})
    assert problem in load_error(path)


SMALL = json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 900}, "unk_token": "a"}})


@pytest.mark.parametrize(
    ("key", "entry", "problem"),
    [
        (TOKENIZER_JSON, None, f"{TOKENIZER_JSON} is missing"),
        (TOKENIZER_JSON, ("", STRING), f"{TOKENIZER_JSON} is missing"),
        (TOKENIZER_JSON, ("{}", STRING), "tokenizer.json cannot be read"),
        (TOKENIZER_JSON, ("[" * 100_000, STRING), "tokenizer.json cannot be read"),
        (TOKENIZER_JSON, (SMALL, STRING), "its tokenizer has ids up to 900, its vocabulary 432 entries"),
        (TOKENS, None, f"{TOKENS} is missing"),
        ("tokenizer.ggml.bos_token_id", (432, UINT32), "bos_token_id is 432, expected 0 to 431"),
        ("tokenizer.ggml.seperator_token_id", (2**32 - 1, UINT32), "seperator_token_id is 4294967295"),
    ],
)
def test_a_damaged_tokenizer(tmp_path, key, entry: tuple[Any, Any] | None, problem):
    path = rewritten(write_gguf("gte", tmp_path / "m.gguf"), entries={key: entry})
    assert problem in load_error(path)
