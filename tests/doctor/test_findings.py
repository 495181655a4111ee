"""For each finding, a file with the fault and the same file without it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFValueType

from gguf_embed.doctor.examine import Diagnosis, examine
from gguf_embed.doctor.findings import Finding
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from tests.doctor import doctor_models as models
from tests.doctor.doctor_models import Builder, Edit, Typed, edit
from tests.gguf_models import CLS, SPECIALS, TINY_VOCABULARY, write_tiny_encoder

G = "tokenizer.ggml."
N = len(TINY_VOCABULARY)
STORED = [
    token if token in SPECIALS else token[2:] if token.startswith("##") else "\u2581" + token
    for token in TINY_VOCABULARY
]
SIGNED = GGUFValueType.INT32
NAN = np.full((32, 64), np.nan, np.float32)

CASES: list[tuple[str, Builder, Edit, str]] = [
    # what is wrong, the right file, how it is spoiled, "severity code"
    ("no pooling in an encoder", models.encoder, Edit(drop=["bert.pooling_type"]), "serious pooling_missing"),
    ("no pooling in a known model", models.qwen, Edit(drop=["qwen3.pooling_type"]), "serious pooling_missing"),
    ("no pooling beside a head", models.reranker, Edit(drop=["bert.pooling_type"]), "serious pooling_missing"),
    ("no pooling in a chat model", models.decoder, Edit(drop=["qwen3.pooling_type"]), "serious not_embedding_model"),
    ("pooling none", models.encoder, Edit({"bert.pooling_type": 0}), "warning pooling_none"),
    ("pooling without meaning", models.encoder, Edit({"bert.pooling_type": 9}), "serious pooling_invalid"),
    ("Qwen3 with mean", models.qwen, Edit({"qwen3.pooling_type": 1}), "serious pooling_wrong"),
    ("Qwen3 with none", models.qwen, Edit({"qwen3.pooling_type": 0}), "serious pooling_wrong"),
    ("bge with mean", models.bge_m3, Edit({"bert.pooling_type": 1}), "serious pooling_wrong"),
    ("nomic with cls", models.encoder, Edit({"general.name": "nomic-embed-text-v1.5", "bert.pooling_type": 2}),
     "serious pooling_wrong"),
    ("made from bge, with mean", models.encoder, Edit({"general.name": "bge-base-en-legal-contracts"}),
     "warning pooling_wrong"),
    ("cls in a decoder", models.decoder, Edit({"qwen3.pooling_type": 2}), "serious pooling_wrong"),
    ("last in an encoder", models.encoder, Edit({"bert.pooling_type": 3}), "warning pooling_unusual"),
    ("rank without a head", models.encoder, Edit({"bert.pooling_type": 4}), "serious rank_head_missing"),
    ("a reranker without a head", models.encoder, Edit({"general.name": "my reranker"}), "serious rank_head_missing"),
    ("a head that is not used", models.reranker, Edit({"bert.pooling_type": 1}), "warning rank_pooling_unset"),
    ("a head without labels", models.qwen_reranker, Edit(drop=["qwen3.classifier.output_labels"]),
     "serious rank_labels"),
    ("Qwen3's prompt missing", models.qwen_reranker, Edit(drop=["tokenizer.chat_template.rerank"]),
     "serious rerank_template_missing"),
    ("gte-Qwen2 as a causal model", models.decoder, Edit({"general.name": "gte-Qwen2-1.5B-instruct"}),
     "warning attention_causal"),
    ("no EOS for Qwen3", models.qwen, Edit(drop=[G + "add_eos_token"]), "serious eos_not_added"),
    ("no EOS for pooling last", models.decoder, Edit({G + "add_eos_token": False}), "warning eos_not_added"),
    ("another EOS than Qwen3's", models.qwen, Edit({G + "tokens": [*map(chr, range(500, 768)), "<|endoftext|>"]}),
     "serious eos_wrong"),
    ("no <s> for bge-m3", models.bge_m3, Edit(drop=[G + "add_bos_token"]), "serious bos_not_added"),
    ("no </s> for bge-m3", models.bge_m3, Edit({G + "add_eos_token": False}), "serious eos_not_added"),
    ("no <s> for RoBERTa", models.roberta, Edit(drop=[G + "add_bos_token"]), "serious bos_not_added"),
    ("no </s> for RoBERTa", models.roberta, Edit(drop=[G + "add_eos_token"]), "serious eos_not_added"),
    ("pairs without a last [SEP]", models.reranker, Edit(drop=[G + "add_eos_token"]), "warning pair_frame"),
    ("pairs with two [SEP]", models.reranker, Edit({G + "add_sep_token": True}), "warning pair_frame"),
    ("[CLS] by default elsewhere", models.encoder, Edit(drop=[G + "bos_token_id"]), "serious special_id_wrong"),
    ("[CLS] at a word", models.encoder, Edit({G + "bos_token_id": 9}), "serious special_id_wrong"),
    ("[CLS] at [SEP]", models.encoder, Edit({G + "bos_token_id": 3}), "serious special_id_wrong"),
    ("[MASK] at a word", models.encoder, Edit({G + "mask_token_id": 9}), "warning special_id_wrong"),
    ("[SEP] out of range", models.encoder, Edit({G + "seperator_token_id": N}), "serious special_id_range"),
    ("[PAD] out of range", models.encoder, Edit({G + "padding_token_id": 99999}), "warning special_id_range"),
    ("[UNK] not declared", models.encoder, Edit(drop=[G + "unknown_token_id"]), "serious special_id_missing"),
    ("BOS added, none there", models.bge_m3, Edit(drop=[G + "bos_token_id"]), "serious special_id_missing"),
    ("pieces with ##", models.encoder, Edit({G + "tokens": list(TINY_VOCABULARY)}), "serious wordpiece_form"),
    ("a token twice", models.encoder, Edit({G + "tokens": [*STORED[:-1], STORED[-2]]}), "serious tokens_repeated"),
    ("an empty token", models.encoder, Edit({G + "tokens": [*STORED[:-1], ""]}), "note tokens_empty"),
    ("a token too few", models.encoder, Edit({G + "tokens": STORED[:-1]}), "serious vocabulary_size"),
    ("types too few", models.encoder, Edit({G + "token_type": [1] * 7}), "serious vocabulary_size"),
    ("no types", models.encoder, Edit(drop=[G + "token_type"]), "warning token_types_missing"),
    ("no segments", models.encoder, Edit(drop=[G + "token_type_count"]), "serious token_type_count"),
    ("no scores", models.bge_m3, Edit(drop=[G + "scores"]), "serious scores_missing"),
    ("no charsmap", models.bge_m3, Edit(drop=[G + "precompiled_charsmap"]), "warning charsmap_missing"),
    ("no merges", models.decoder, Edit(drop=[G + "merges"]), "serious merges_missing"),
    ("no pre-tokenizer", models.decoder, Edit(drop=[G + "pre"]), "serious pre_missing"),
    ("the default pre-tokenizer", models.decoder, Edit({G + "pre": "default"}), "serious pre_missing"),
    ("a pre-tokenizer of tomorrow", models.decoder, Edit({G + "pre": "qwen9"}), "serious pre_unknown"),
    ("a tokenizer of tomorrow", models.decoder, Edit({G + "model": "bytes9"}), "serious tokenizer_unknown"),
    ("lower-casing a cased vocabulary", models.encoder, Edit({G + "tokens": [*STORED[:-1], "\u2581Berlin"]}),
     "warning lowercase_flag"),
    ("not lower-casing an uncased one", models.encoder, Edit({G + "normalizer.lowercase": False}),
     "warning lowercase_flag"),
    ("no context", models.encoder, Edit(drop=["bert.context_length"]), "serious context_missing"),
    ("context 0", models.decoder, Edit({"qwen3.context_length": 0}), "serious context_missing"),
    ("context beyond the positions", models.encoder, Edit({"bert.context_length": 512}), "serious context_positions"),
    ("context beyond training", models.qwen, Edit({"qwen3.context_length": 131072}), "warning context_beyond_training"),
    ("stretched positions", models.decoder, Edit({"qwen3.rope.scaling.type": "yarn"}), "note rope_scaling"),
    ("a width that does not fit", models.encoder, Edit({"bert.embedding_length": 48}), "serious dimensions"),
    ("no number of layers", models.encoder, Edit(drop=["bert.block_count"]), "serious key_missing"),
    ("another model's name", models.encoder, Edit({"general.name": "all-MiniLM-L6-v2"}), "note dimensions_unexpected"),
    ("a signed pooling type", models.encoder, Edit({"bert.pooling_type": Typed(1, SIGNED)}), "serious value_type"),
    ("an architecture of tomorrow", models.encoder, Edit({"general.architecture": "bert9"}),
     "serious architecture_unknown"),
    ("a projector", models.encoder, Edit({"general.type": "mmproj"}), "serious cannot_embed"),
    ("NaN in a matrix", models.encoder, Edit(tensors={"blk.0.ffn_down.weight": NAN}), "serious weights_not_finite"),
    ("zeros in a matrix", models.encoder, Edit(tensors={"blk.0.ffn_down.weight": np.zeros_like(NAN)}),
     "warning weights_zero"),
    ("a wrong file type", models.encoder, Edit({"general.file_type": 7}), "warning file_type"),
]  # fmt: skip


def found(diagnosis: Diagnosis) -> list[str]:
    return [f"{finding.severity} {finding.code}" for finding in diagnosis.findings]


def one(diagnosis: Diagnosis, code: str) -> Finding:
    return next(finding for finding in diagnosis.findings if finding.code == code)


@pytest.mark.parametrize(("build", "what", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_fault_is_found_and_only_in_the_file_that_has_it(tmp_path, build, what, expected):
    right = build(tmp_path / "right.gguf")
    wrong = edit(right, tmp_path / "wrong.gguf", what)
    assert expected not in found(examine(right))
    diagnosis = examine(wrong)
    assert expected in found(diagnosis)
    for finding in diagnosis.findings:
        assert "\n" not in finding.message + finding.fix
        assert finding.message
        assert finding.fix


@pytest.mark.parametrize(
    "build",
    [models.encoder, models.reranker, models.decoder, models.qwen, models.qwen_reranker, models.bge_m3, models.roberta],
)
def test_right_files_have_notes_only(tmp_path, build):
    assert {line.split()[0] for line in found(examine(build(tmp_path / "m.gguf")))} <= {"note"}


def test_the_default_model_has_notes_only(default_model):
    assert found(examine(default_model, deep=True)) == ["note tokenizer_differs"]


def test_bert_files_without_any_flag_are_right_for_single_texts(tmp_path):
    """llama.cpp always adds [CLS] and [SEP] for WordPiece, and an encoder's attention is never causal."""
    dropped = [f"{G}add_{role}_token" for role in ("bos", "eos", "sep")] + ["bert.attention.causal"]
    bare = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "bare.gguf", Edit(drop=dropped))
    assert {line.split()[0] for line in found(examine(bare))} <= {"note"}


@pytest.mark.parametrize(
    ("outtype", "expected"), [("f32", None), ("f16", None), ("bf16", None), ("q8_0", "note precision")]
)
def test_precision_is_judged_by_the_layers_weights(tmp_path, outtype, expected):
    lines = found(examine(write_tiny_encoder(tmp_path / "m.gguf", outtype=outtype)))
    assert [line for line in lines if line.endswith("precision")] == ([expected] if expected else [])


def test_four_bits_are_a_warning_even_with_a_finer_table(tmp_path):
    diagnosis = examine(quantized(tmp_path / "m.gguf", bytes(18)))
    assert "warning precision" in found(diagnosis)
    assert "Q4_0" in one(diagnosis, "precision").message


@pytest.mark.parametrize("scale", [b"\x00\x7c", b"\x00\xfc", b"\x01\x7e"], ids=["inf", "-inf", "nan"])
def test_a_block_whose_scale_is_not_finite_is_found(tmp_path, scale):
    assert "serious weights_not_finite" in found(examine(quantized(tmp_path / "m.gguf", scale + b"\0" * 16)))


def test_a_coarse_table_with_finer_layers_is_found(tmp_path):
    assert "warning precision_embeddings" in found(examine(quantized(tmp_path / "m.gguf", bytes(18), "token_embd.")))


def quantized(path: Path, block: bytes, prefix: str = "blk.") -> Path:
    """An encoder whose Q8_0 matrices of that name are declared as Q4_0, all blocks alike. Q4_0 is smaller: it fits."""
    data = bytearray(write_tiny_encoder(path, outtype="q8_0").read_bytes())
    header = read_header(path)
    for tensor in header.tensors.values():
        if tensor.type == "Q8_0" and tensor.name.startswith(prefix):
            name = struct.pack("<Q", len(tensor.name)) + tensor.name.encode()
            at = data.index(name) + len(name) + 4 + 8 * len(tensor.shape)
            data[at : at + 4] = struct.pack("<I", 2)
            n_blocks = tensor.size_bytes // 34
            start = header.data_start + tensor.offset
            data[start : start + 18 * n_blocks] = block * n_blocks
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("deep", "expected"), [(False, False), (True, True)])
def test_deep_finds_one_bad_number_that_a_sample_misses(tmp_path, deep, expected):
    values = np.ones((300, 4096), np.float32)
    values[150, 2000] = np.inf
    path = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "bad.gguf", Edit(tensors={"further.weight": values}))
    assert ("serious weights_not_finite" in found(examine(path, deep=deep))) is expected


def test_an_unreadable_file_is_a_finding(tmp_path):
    path = models.encoder(tmp_path / "m.gguf")
    data = path.read_bytes()
    for content in (data[:-100], data[:50], b"PK\3\4" + data, b"", data[:4] + struct.pack(">I", 3) + data[8:]):
        path.write_bytes(content)
        assert found(examine(path)) == ["serious unreadable"]


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        examine(tmp_path / "m.gguf")


def test_split_models_are_checked_as_a_whole(tmp_path):
    first, second = split(tmp_path)
    for part in (first, second):
        assert {line.split()[0] for line in found(examine(part))} == {"note"}
    second.unlink()
    assert found(examine(first)) == ["serious part_missing"]


def test_parts_of_different_models_are_found(tmp_path):
    first, second = split(tmp_path)
    edit(models.encoder(tmp_path / "m.gguf"), second, Edit({"split.no": Typed(1, GGUFValueType.UINT16)}))
    assert "serious part_missing" in found(examine(first))


def test_a_part_under_another_name_is_found(tmp_path):
    first, _ = split(tmp_path)
    assert "serious part_name" in found(examine(first.rename(tmp_path / "model.gguf")))


def split(folder: Path) -> tuple[Path, Path]:
    """An encoder in two parts: the second has the last layer."""
    whole = models.encoder(folder / "whole.gguf")
    names = list(read_header(whole).tensors)
    late = [name for name in names if name.startswith("blk.1.")]
    short = GGUFValueType.UINT16
    count = {"split.count": Typed(2, short), "split.tensors.count": Typed(len(names), SIGNED)}
    first, second = folder / "m-00001-of-00002.gguf", folder / "m-00002-of-00002.gguf"
    edit(whole, first, Edit(count | {"split.no": Typed(0, short)}, tensors=dict.fromkeys(late)))
    rest = dict.fromkeys(name for name in names if name not in late)
    edit(whole, second, Edit(count | {"split.no": Typed(1, short)}, tensors=rest))
    return first, second


def test_the_token_behind_an_id_is_named(tmp_path):
    path = edit(models.encoder(tmp_path / "m.gguf"), tmp_path / "wrong.gguf", Edit({G + "bos_token_id": 9}))
    finding = one(examine(path), "special_id_wrong")
    assert repr(STORED[9]) in finding.message
    assert f"{G}bos_token_id to {CLS}" in finding.fix
