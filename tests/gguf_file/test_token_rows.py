"""Token rows for pairs, read from GGUFs of several types, with the second text's token type."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.token_rows import PairRows, has_token_types
from tests.gguf_models import write_tiny_encoder

N_TOKENS, N_EMBD = 50, 256


def write(path: Path, kind: gguf.GGMLQuantizationType, n_types: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A file with the two tensors; returns what they mean as float32."""
    random = np.random.default_rng(0)
    table = random.standard_normal((N_TOKENS, N_EMBD)).astype(np.float32)
    types = random.standard_normal((n_types, N_EMBD)).astype(np.float32)
    stored = gguf.quants.quantize(table, kind)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tensor("token_embd.weight", stored, raw_dtype=kind)
    writer.add_tensor("token_types.weight", types)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(stored, kind).astype(np.float32), types


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q4_1"])
def test_rows_of_every_type(tmp_path, kind):
    table, types = write(tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind])
    rows = PairRows(read_header(tmp_path / "m.gguf"))
    ids = np.array([0, 49, 7, 50, 57, 99, 7])
    expected = table[ids % N_TOKENS] + np.outer(ids >= N_TOKENS, types[1] - types[0])
    found = rows.take(ids)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.flags.c_contiguous


def test_the_file_itself_stays_as_it_is(tmp_path):
    write(tmp_path / "m.gguf", gguf.GGMLQuantizationType.F32)
    before = (tmp_path / "m.gguf").read_bytes()
    PairRows(read_header(tmp_path / "m.gguf")).take(np.array([50, 51]))[:] = 0
    assert (tmp_path / "m.gguf").read_bytes() == before


@pytest.mark.parametrize("kind", ["Q8_K", "FROM_TOMORROW"])
def test_an_unsupported_type_fails_when_the_model_is_opened(tmp_path, kind):
    write(tmp_path / "m.gguf", gguf.GGMLQuantizationType.F32)
    header = read_header(tmp_path / "m.gguf")
    tensors = header.tensors | {"token_embd.weight": replace(header.tensors["token_embd.weight"], type=kind)}
    with pytest.raises(ModelFileError, match=f"is stored as {kind}"):
        PairRows(replace(header, tensors=tensors))


@pytest.mark.parametrize(("n_types", "has"), [(1, False), (2, True)])
def test_one_token_type_is_none(tmp_path, n_types, has):
    write(tmp_path / "m.gguf", gguf.GGMLQuantizationType.F32, n_types)
    assert has_token_types(read_header(tmp_path / "m.gguf")) is has


def test_a_bert_has_token_types(tmp_path):
    assert has_token_types(read_header(write_tiny_encoder(tmp_path / "m.gguf")))
