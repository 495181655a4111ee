"""Conversion of jina-reranker-v3: its projector becomes arrays in the metadata, and what differs is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from gguf_embed.doctor.examine import examine
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.bounds import check_bounds
from gguf_embed.gguf_file.header import GgufHeader, read_header
from gguf_embed.gguf_file.token_heads import read_token_heads
from tests.convert.bert_directory import write_safetensors
from tests.convert.tokenizers.decoder_directory import n_vocab_of, random_weights
from tests.convert.tokenizers.references import reference_tokenizers
from tests.listwise_models import MODEL, projector, with_markers, write_listwise

TOKENIZER = reference_tokenizers()[MODEL.tokenizer]


def convert(source: Path, name: str = "jina-reranker-v3") -> GgufHeader:
    convert_directory(source, source.parent / "m.gguf", "f32", report=lambda line: None, name=name)
    return read_header(source.parent / "m.gguf")


def test_the_projector_and_the_originals_limits_are_in_the_file(tmp_path):
    header = convert(write_listwise(tmp_path / "m", TOKENIZER))
    heads = read_token_heads(header)
    assert heads is not None
    head = heads.listwise
    assert head is not None
    np.testing.assert_array_equal(head.hidden.weight, projector()["projector.0.weight"])
    np.testing.assert_array_equal(head.output.weight, projector()["projector.2.weight"])
    assert (head.query_length, head.document_length, head.max_documents) == (512, 2048, 125)
    assert head.query_token == head.document_token + 1
    assert header.architecture == "qwen3"
    assert not any("projector" in name for name in header.tensors)


def test_a_converted_file_has_nothing_to_complain_about(tmp_path):
    header = convert(write_listwise(tmp_path / "m", TOKENIZER))
    check_bounds(header)
    assert [finding.code for finding in examine(header.path).findings] == []


def test_layers_with_a_window_are_refused(tmp_path):
    source = write_listwise(tmp_path / "m", TOKENIZER, layer_types=["full_attention", "sliding_attention"])
    with pytest.raises(ModelFileError, match="layer_types has 'sliding_attention', which cannot be converted"):
        convert(source)


def test_a_tokenizer_without_the_markers_is_refused(tmp_path):
    source = write_listwise(tmp_path / "m", TOKENIZER)
    (source / "tokenizer.json").write_text(json.dumps(TOKENIZER["tokenizer.json"]), "utf-8")
    with pytest.raises(ModelFileError, match=r"its tokenizer has no token <\|embed_token\|>"):
        convert(source)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ({}, "nothing"),
        ({"projector.0.weight": (8, 64), "projector.2.weight": (8, 9)}, r"projector.2.weight \[8, 9\]"),
        ({"projector.0.weight": (8, 65), "projector.2.weight": (8, 8)}, r"projector.0.weight \[8, 65\]"),
        (
            {"projector.0.weight": (8, 64), "projector.0.bias": (8,), "projector.2.weight": (8, 8)},
            r"projector.0.bias \[8\]",
        ),
    ],
)
def test_another_projector_is_refused(tmp_path, layers, found):
    source = write_listwise(tmp_path / "m", TOKENIZER)
    weights = random_weights(MODEL, n_vocab_of(with_markers(TOKENIZER)))
    other = {name: np.ones(shape, np.float32) for name, shape in layers.items()}
    write_safetensors(source / "model.safetensors", weights | other, "F32")
    with pytest.raises(ModelFileError, match=f"its projector has .*{found}.*expected projector.0.weight and projector"):
        convert(source)


def test_own_code_of_other_models_is_still_refused(tmp_path):
    source = write_listwise(tmp_path / "m", TOKENIZER, architectures=["Qwen3ForCausalLM"])
    with pytest.raises(ModelFileError, match="the model has its own code"):
        convert(source)
