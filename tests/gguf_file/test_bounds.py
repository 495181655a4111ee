"""Numbers, types and vocabularies for which llama.cpp would end the process are named before it sees them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.bounds import check_bounds, header_problems, vocabulary_problem
from gguf_embed.gguf_file.header import GgufHeader, TensorInfo, read_header
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.mutate_gguf import F32, I32, STRING, U32, Model, as_bytes, read_model


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> GgufHeader:
    return read_header(write_tiny_encoder(tmp_path_factory.mktemp("bounds") / "m.gguf"))


@pytest.fixture(scope="module")
def model(bert) -> Model:
    return read_model(bert.path)


def with_entry(header: GgufHeader, key: str, value: object) -> GgufHeader:
    return replace(header, metadata={**header.metadata, key: value})


NUMBERS = [
    ("bert.block_count", 0, "bert.block_count is 0, expected 1 to 512"),
    ("bert.block_count", 2**31, "bert.block_count is 2147483648, expected 1 to 512"),
    ("bert.attention.layer_norm_epsilon", math.nan, "epsilon is nan, expected a positive number"),
    ("bert.attention.layer_norm_epsilon", -1.0, "epsilon is -1.0, expected a positive number"),
    ("bert.attention.layer_norm_rms_epsilon", math.inf, "epsilon is inf, expected a positive number"),
    ("bert.rope.freq_base", 0.0, "freq_base is 0.0, expected a positive number"),
    ("bert.rope.scaling.factor", math.nan, "factor is nan, expected a finite number"),
    ("general.alignment", 1, "general.alignment is 1, expected 8 to 65536"),
    ("general.alignment", 2**31, "general.alignment is 2147483648, expected"),
    ("bert.attention.key_length", 2**20, "key_length is 1048576, expected 1 to 16384"),
    ("bert.attention.head_count", 33, "head_count is 33, expected at most bert.embedding_length, 32"),
    ("bert.attention.head_count", (4, 2**31), "head_count is 2147483648, expected"),
    ("bert.expert_count", 2**31, "expert_count is 2147483648, expected 0 to 512"),
    ("bert.expert_count", 8, "expert_used_count is 0, expected 1 to bert.expert_count, 8"),
    ("bert.expert_used_count", 2, "expert_used_count is 2, expected at most bert.expert_count, 0"),
    ("bert.embedding_length_out", 2**32 - 1, "embedding_length_out is 4294967295, expected 1 to 65536"),
    ("bert.context_length", 2**32 - 1, "context_length is 4294967295, expected"),
    ("bert.vocab_size", 2**31, "vocab_size is 2147483648, expected"),
]


@pytest.mark.parametrize(("key", "value", "problem"), NUMBERS)
def test_a_number_out_of_bounds_is_named_with_its_limit(bert, key, value, problem):
    found = list(header_problems(with_entry(bert, key, value)))
    assert any(problem in line for line in found), found


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bert.attention.layer_norm_epsilon", 1e-12),
        ("bert.rope.scaling.factor", -1.0),
        ("bert.attention.head_count", (4, 0, 8)),
        ("bert.attention.head_count_kv", 0),
        ("bert.block_count", "many"),  # llama.cpp itself refuses another type
        ("bert.block_count", True),
        ("general.alignment", 4096),
    ],
)
def test_what_llama_cpp_accepts_is_no_problem(bert, key, value):
    assert list(header_problems(with_entry(bert, key, value))) == []


@pytest.mark.parametrize(
    ("name", "type_name", "shape", "problem"),
    [
        ("blk.0.attn_q.bias", "I32", (32,), "tensor blk.0.attn_q.bias is I32, expected F32, F16 or BF16"),
        ("blk.0.attn_output_norm.weight", "Q8_0", (32,), "is Q8_0, expected F32, F16 or BF16 for a norm or a bias"),
        ("position_embd.weight", "I32", (32, 64), "is I32, expected a type of weights"),
        ("token_embd.weight", "I16", (32, 80), "is I16, expected a type of weights"),
        ("token_embd.weight", "Q4_0", (32, 80), None),
        ("blk.0.ffn_up.weight", "F64", (32, 64), "is F64, expected a type of weights"),
        ("blk.0.ffn_up.weight", "F32", (32, 0), "has the shape [32, 0], expected no 0"),
        ("blk.0.ffn_gate_tid2eid.weight", "I32", (6, 100), None),
        ("blk.0.attn_q.bias", "BF16", (32,), None),
    ],
)
def test_a_tensors_type_must_be_one_that_is_computed(bert, name, type_name, shape, problem):
    changed = replace(bert, tensors=bert.tensors | {name: TensorInfo(name, shape, type_name, 0, 4)})
    found = list(header_problems(changed))
    assert found == [] if problem is None else [problem in line for line in found] == [True], found


ARRAYS = [
    ("tokenizer.ggml.scores", F32, [1.0], "tokenizer.ggml.scores has 1 items, expected one for each of the"),
    ("tokenizer.ggml.scores", 0, [1] * 200, "tokenizer.ggml.scores has values of the type 0, expected 6"),
    ("tokenizer.ggml.token_type", I32, [1], "tokenizer.ggml.token_type has 1 items"),
    ("tokenizer.ggml.tokens", I32, list(range(200)), "tokenizer.ggml.tokens has values of the type 5, expected 8"),
    ("tokenizer.ggml.merges", U32, [1], "tokenizer.ggml.merges has values of the type 4, expected 8"),
]


@pytest.mark.parametrize(("key", "kind", "items", "problem"), ARRAYS)
def test_arrays_have_the_type_and_the_length_that_llama_cpp_reads(tmp_path, model, key, kind, items, problem):
    path = tmp_path / "m.gguf"
    path.write_bytes(as_bytes(model.with_value(key, kind, *items, is_array=True)))
    with pytest.raises(ModelFileError) as caught:
        check_bounds(read_header(path))
    assert problem in caught.value.message
    assert "\n" not in caught.value.message


def changed_vocabulary(model: Model, tokens: list[str | bytes], kind: str = "bert") -> Model:
    typed = model.with_value("tokenizer.ggml.model", STRING, kind)
    return typed.with_value("tokenizer.ggml.tokens", STRING, *tokens, is_array=True)


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        ("bert", lambda tokens: tokens, None),
        ("bert", lambda tokens: [*tokens[:-1], tokens[5]], "has the entry '▁the' twice"),
        ("bert", lambda tokens: [*tokens[:-2], b"\xff", b"\xff"], "has the entry '\ufffd' twice"),
        ("bert", lambda tokens: [*tokens[:-2], b"\xff", b"\xfe"], None),
        ("bert", lambda tokens: [*tokens[:-2], "", ""], None),
        ("llama", lambda tokens: tokens, "(SentencePiece), but its vocabulary has no entry <0x00>"),
        ("llama", lambda tokens: [*tokens, *BYTES[:-1]], "has no entry <0xFF>"),
        ("llama", lambda tokens: [*tokens, *BYTES], None),
        ("rwkv", lambda tokens: tokens, "'rwkv', which bert models do not have"),
        ("nonsense", lambda tokens: tokens, "tokenizer.ggml.model is 'nonsense', expected one of llama, gpt2"),
    ],
)
def test_a_vocabulary_with_which_llama_cpp_cannot_tokenize(tmp_path, model, kind, change, problem):
    path = tmp_path / "m.gguf"
    tokens = list(model.metadata["tokenizer.ggml.tokens"].items)
    path.write_bytes(as_bytes(changed_vocabulary(model, change(tokens), kind)))
    found = vocabulary_problem(read_header(path))
    assert found is None if problem is None else problem in (found or ""), found


def test_healthy_models_have_no_problems(tmp_path):
    for path in (write_tiny_encoder(tmp_path / "e.gguf", rank_head=True), write_tiny_decoder(tmp_path / "d.gguf")):
        header = read_header(path)
        assert list(header_problems(header)) == []
        assert vocabulary_problem(header) is None
