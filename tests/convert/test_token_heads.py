"""Heads in a model's directory: what is read, and what is refused."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.convert.torch_file import read_torch_file
from gguf_embed.doctor.examine import examine
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.token_heads import heads_bytes, read_token_heads
from tests.convert.encoders.tiny_models import change_json
from tests.data.head_directories import DATA, write_directory

M3 = DATA / "heads" / "bge_m3" / "colbert_linear.pt"


def converted(name: str, folder: Path, change=lambda path: None) -> Path:
    directory = write_directory(name, folder / "model")
    change(directory)
    convert_directory(directory, folder / "m.gguf", "f16", report=lambda line: None)
    return folder / "m.gguf"


def test_a_torch_file_is_read_without_torch():
    tensors = read_torch_file(M3)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"weight": (64, 64), "bias": (64,)}
    assert np.isfinite(tensors["weight"]).all()


class Runs:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("payload", [Runs(), {"weight": Runs()}, ["no dict"], {"weight": 1}])
def test_a_torch_file_cannot_run_anything(tmp_path, capsys, payload):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(payload))
    with pytest.raises(ModelFileError, match=r"x\.pt is not a"):
        read_torch_file(tmp_path / "x.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cut", [0, 10, 200, -30])
def test_a_damaged_torch_file_is_an_error(tmp_path, cut):
    (tmp_path / "x.pt").write_bytes(M3.read_bytes()[:cut])
    with pytest.raises(ModelFileError, match=r"x\.pt is not a file of tensors"):
        read_torch_file(tmp_path / "x.pt")


def test_what_is_written_is_read_again(tmp_path):
    heads = read_token_heads(read_header(converted("colbert_stanford", tmp_path)))
    assert heads is not None
    assert heads.late is not None
    late = heads.late
    assert (late.n_dims, late.query_length, late.document_length, late.expansion_length) == (16, 12, 24, 12)
    assert late.projection is not None
    assert late.projection.weight.shape == (16, 64)
    assert len(late.query_prefix) == len(late.document_prefix) == 1
    assert late.expansion_token == 4
    assert len(late.skipped) > 20


def test_prompts_that_are_prefixes_are_not_added_as_text_too(tmp_path):
    header = read_header(converted("colbert_sentence_transformers", tmp_path))
    assert not any(key.startswith("gguf-embed.prompt.") for key in header.metadata)


def test_the_decoder_of_a_masked_language_head_counts_as_memory(tmp_path):
    header = read_header(converted("splade_bert", tmp_path))
    assert heads_bytes(header) == 4 * 998 * 64


def test_an_inference_free_model_has_weights_for_queries(tmp_path):
    def add_idf(directory: Path) -> None:
        (directory / "idf.json").write_text(json.dumps({"fox": 3.5, "[MASK]": 2.0, "no such token": 1.0}))

    heads = read_token_heads(read_header(converted("splade_bert", tmp_path, add_idf)))
    assert heads is not None
    assert heads.sparse is not None
    assert heads.sparse.query_weights is not None
    assert heads.sparse.query_weights[4] == 2.0


@pytest.mark.parametrize(
    ("name", "file", "entries", "message"),
    [
        ("colbert_bert", "1_Dense/config.json", {"activation_function": "torch.nn.Tanh"}, "only Dense modules without"),
        ("colbert_bert", "config_sentence_transformers.json", {"query_prefix": "[nowhere]"}, "is not a token"),
        ("splade_bert", "1_SpladePooling/config.json", {"pooling_strategy": "sum"}, "cannot be converted"),
        ("colbert_sentence_transformers", "2_MultiVectorMask/config.json", {"keep_only_token_ids": [1]}, "only a list"),
    ],
)
def test_heads_that_would_be_computed_otherwise_are_refused(tmp_path, name, file, entries, message):
    with pytest.raises(ModelFileError, match=message):
        converted(name, tmp_path, lambda directory: change_json(directory / file, **entries))


@pytest.mark.parametrize("name", ["colbert_bert", "splade_bert"])
def test_the_doctor_misses_no_pooling_beside_heads(tmp_path, name):
    codes = {finding.code for finding in examine(converted(name, tmp_path)).findings}
    assert not codes & {"pooling_missing", "pooling_none"}
