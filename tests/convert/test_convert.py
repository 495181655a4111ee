"""safetensors → GGUF: the same numbers under new names, a file that llama.cpp runs, and never an incomplete one."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from gguf_embed.convert import convert as convert_module
from gguf_embed.convert.convert import convert_directory, convert_in_place
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.facts import check_can_embed, file_type_name, pooling_type
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.convert.bert_directory import N_CTX, N_EMBD, forward, random_weights, write_bert_directory
from tests.gguf_models import CLS, MASK, PAD, SEP, TINY_VOCABULARY, UNK


def ignore(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def weights():
    return random_weights()


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def mean_vector(path: Path, tokens: Sequence[int]) -> np.ndarray:
    """What llama.cpp answers for one text, through its plain C interface."""
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    assert model, "llama.cpp refuses the file"
    params = llama_cpp.llama_context_default_params()
    params.embeddings, params.n_threads, params.n_threads_batch = True, 1, 1
    params.n_ctx = params.n_batch = params.n_ubatch = N_CTX
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    try:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_encode(context, batch) == 0
        return np.ctypeslib.as_array(llama_cpp.llama_get_embeddings_seq(context, 0), (N_EMBD,)).copy()
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def llama_tokens(path: Path, text: str) -> list[int]:
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    tokens = (ctypes.c_int32 * 64)()
    data = text.encode()
    vocab = llama_cpp.llama_model_get_vocab(model)
    n_tokens = llama_cpp.llama_tokenize(vocab, data, len(data), tokens, 64, True, True)
    llama_cpp.llama_model_free(model)
    return list(tokens[:n_tokens])


@pytest.mark.parametrize(
    ("outtype", "dtype", "prefix", "tolerance"),
    [
        ("f32", "F32", "", 0.0),
        ("f32", "F32", "bert.", 0.0),
        ("f32", "BF16", "", 2**-7),
        ("f16", "F32", "", 2**-10),
        ("bf16", "F16", "", 2**-7),
    ],
)
def test_every_tensor_keeps_its_values(tmp_path, weights, outtype, dtype, prefix, tolerance):
    source = write_bert_directory(tmp_path / "hf", weights, dtype=dtype, prefix=prefix)
    convert_directory(source, tmp_path / "m.gguf", outtype, report=ignore)
    tensors = read_tensors(tmp_path / "m.gguf")
    assert len(tensors) == len(weights) - 2  # the pooler's two are not used for embeddings
    pairs = {
        "position_embd.weight": "embeddings.position_embeddings.weight",
        "blk.1.attn_v.weight": "encoder.layer.1.attention.self.value.weight",
        "blk.0.ffn_up.weight": "encoder.layer.0.intermediate.dense.weight",
        "blk.1.ffn_down.bias": "encoder.layer.1.output.dense.bias",
        "blk.0.attn_output_norm.weight": "encoder.layer.0.attention.output.LayerNorm.weight",
        "blk.0.layer_output_norm.bias": "encoder.layer.0.output.LayerNorm.bias",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(tensors[ours], weights[theirs], rtol=tolerance, atol=1e-6 if tolerance else 0)


@pytest.mark.parametrize("outtype", ["f16", "bf16"])
def test_only_matrices_take_the_outtype(tmp_path, weights, outtype):
    convert_directory(write_bert_directory(tmp_path / "hf", weights), tmp_path / "m.gguf", outtype, report=ignore)
    header = read_header(tmp_path / "m.gguf")
    assert file_type_name(header) == outtype.upper()
    small = {name for name, tensor in header.tensors.items() if tensor.type == outtype.upper()}
    assert "token_embd.weight" in small
    assert "blk.0.attn_q.weight" in small
    others = {tensor.type for name, tensor in header.tensors.items() if name not in small}
    assert others == {"F32"}
    assert not small & {"position_embd.weight", "token_types.weight", "token_embd_norm.weight", "blk.0.attn_q.bias"}


def test_llama_cpp_gives_the_vectors_of_a_numpy_bert(tmp_path, weights):
    convert_directory(write_bert_directory(tmp_path / "hf", weights), tmp_path / "m.gguf", "f32", report=ignore)
    tokens = [CLS, *range(5, 35), SEP]
    expected = forward(weights, tokens).mean(axis=0)
    found = mean_vector(tmp_path / "m.gguf", tokens)
    cosine = expected @ found / np.linalg.norm(expected) / np.linalg.norm(found)
    assert cosine > 0.99999
    np.testing.assert_allclose(found, expected, atol=5e-3)  # llama.cpp's GELU is a table of halves


def test_metadata_says_what_llama_cpp_needs(tmp_path, weights):
    convert_directory(write_bert_directory(tmp_path / "hf", weights), tmp_path / "m.gguf", report=ignore, name="Tiny")
    header = read_header(tmp_path / "m.gguf")
    check_can_embed(header)
    assert pooling_type(header) is Pooling.MEAN
    expected = {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        "general.file_type": 1,
        "bert.context_length": N_CTX,
        "bert.embedding_length": 32,
        "bert.block_count": 2,
        "bert.feed_forward_length": 64,
        "bert.attention.head_count": 4,
        "bert.attention.causal": False,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.bos_token_id": CLS,
        "tokenizer.ggml.eos_token_id": SEP,
        "tokenizer.ggml.seperator_token_id": SEP,
        "tokenizer.ggml.unknown_token_id": UNK,
        "tokenizer.ggml.padding_token_id": PAD,
        "tokenizer.ggml.mask_token_id": MASK,
        "tokenizer.ggml.normalizer.lowercase": True,
        "tokenizer.ggml.token_type_count": 2,
    }
    assert {key: header.metadata.get(key) for key in expected} == expected
    assert header.metadata["bert.attention.layer_norm_epsilon"] == pytest.approx(1e-12)


@pytest.mark.parametrize("fast", [True, False])
def test_vocabulary_is_read_from_either_tokenizer_file(tmp_path, weights, fast):
    source = write_bert_directory(tmp_path / "hf", weights, fast_tokenizer=fast)
    convert_directory(source, tmp_path / "m.gguf", report=ignore)
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    assert tokens[:7] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁the", "▁hello"]
    assert tokens[TINY_VOCABULARY.index("##ing")] == "ing"
    assert tokens[-1] == f"▁[PAD{len(tokens) - 1}]"
    assert types[:6] == [3, 3, 3, 3, 3, 1]
    assert types[-2:] == [5, 5]


def test_llama_cpp_tokenizes_with_the_converted_vocabulary(tmp_path, weights):
    convert_directory(write_bert_directory(tmp_path / "hf", weights), tmp_path / "m.gguf", report=ignore)
    ids = {text: i for i, text in enumerate(TINY_VOCABULARY)}
    assert llama_tokens(tmp_path / "m.gguf", "Hello cats, 中!") == [
        CLS, ids["hello"], ids["cat"], ids["##s"], ids[","], ids["中"], ids["!"], SEP
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "pooling"),
    [("pooling_mode_cls_token", Pooling.CLS), ("pooling_mode_lasttoken", Pooling.LAST), (None, None)],
)
def test_pooling_is_what_sentence_transformers_declares(tmp_path, weights, flag, pooling):
    convert_directory(write_bert_directory(tmp_path / "hf", weights, pooling=flag), tmp_path / "m.gguf", report=ignore)
    assert pooling_type(read_header(tmp_path / "m.gguf")) is pooling


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2Model"]}, "GPT2Model cannot be converted.*supported: BertModel"),
        ({"architectures": None, "model_type": "gpt2"}, "gpt2 cannot be converted"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"is_decoder": True}, "decoder"),
        ({"hidden_size": "x"}, "hidden_size is 'x'"),
        ({"num_hidden_layers": 3}, "blk.2.attn_q.weight should be .* missing"),
        ({"intermediate_size": 65}, "ffn_up.weight should be .65, 32., but it is .64, 32."),
        ({"vocab_size": 10}, "token_embd.weight should be .10, 32., but it is .131, 32."),
        ({"pooling": "pooling_mode_max_tokens"}, "pooling pooling_mode_max_tokens"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(tmp_path, weights, change, message):
    source = write_bert_directory(tmp_path / "hf", weights, **change)
    with pytest.raises(ModelFileError, match=message):
        convert_directory(source, tmp_path / "m.gguf", report=ignore)
    assert not list(tmp_path.glob("*.gguf*"))


def break_truncated(source: Path) -> None:
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[:-10])


def break_header(source: Path) -> None:
    (source / "model.safetensors").write_bytes(b"\xff" * 64)


def break_no_weights(source: Path) -> None:
    (source / "model.safetensors").unlink()


def break_no_tokenizer(source: Path) -> None:
    (source / "tokenizer.json").unlink()


def break_config(source: Path) -> None:
    (source / "config.json").write_text("[1")


def break_tokenizer_kind(source: Path) -> None:
    (source / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_truncated, "truncated"),
        (break_header, "truncated or not a safetensors"),
        (break_no_weights, "has no model.safetensors"),
        (break_no_tokenizer, "neither tokenizer.json nor vocab.txt"),
        (break_config, "config.json is not JSON"),
        (break_tokenizer_kind, "'BPE' cannot be converted"),
    ],
)
def test_damaged_sources_are_named(tmp_path, weights, damage, message):
    source = write_bert_directory(tmp_path / "hf", weights)
    damage(source)
    with pytest.raises(ModelFileError, match=message):
        convert_directory(source, tmp_path / "m.gguf", report=ignore)


def test_progress_counts_the_bytes_of_the_weights(tmp_path, weights):
    told: list[tuple[int, int]] = []
    source, output = write_bert_directory(tmp_path / "hf", weights), tmp_path / "m.gguf"
    convert_directory(source, output, report=ignore, progress=lambda done, total: told.append((done, total)))
    done = [n_bytes for n_bytes, _ in told]
    assert done == sorted(done)
    assert {total for _, total in told} == {done[-1]}
    assert done[-1] <= output.stat().st_size


def test_values_too_large_for_f16_are_refused(tmp_path, weights):
    large = weights | {"encoder.layer.0.output.dense.weight": np.full((32, 64), 1e6, np.float32)}
    source = write_bert_directory(tmp_path / "hf", large)
    with pytest.raises(ModelFileError, match="too large for f16; convert to bf16 or f32"):
        convert_directory(source, tmp_path / "m.gguf", "f16", report=ignore)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_midway_leaves_the_old_file_and_nothing_else(tmp_path, weights, monkeypatch, interruption):
    output = tmp_path / "out" / "m.gguf"
    output.parent.mkdir()
    output.write_bytes(b"old")

    def fail(tensor: object) -> None:
        raise interruption

    monkeypatch.setattr(convert_module, "_encode", fail)
    expected = ModelFileError if isinstance(interruption, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        convert_directory(write_bert_directory(tmp_path / "hf", weights), output, report=ignore)
    assert [path.name for path in output.parent.iterdir()] == ["m.gguf"]
    assert output.read_bytes() == b"old"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, weights):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be written"):
        convert_directory(write_bert_directory(tmp_path / "hf", weights), tmp_path / "file" / "m.gguf", report=ignore)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_memory_that_is_full_has_a_way_out(tmp_path, weights):
    with pytest.raises(ModelFileError, match="cannot be written") as caught:
        convert_in_place(write_bert_directory(tmp_path / "hf", weights), Path("/dev/full"), "f16", name="m")
    assert caught.value.ways_out == (WayOut.FREE_SPACE, WayOut.OTHER_CACHE)
