"""K-quants, as llama.cpp itself writes them: read as the `gguf` package reads them, and computed by both engines."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.engines.llama import api
from gguf_embed.gguf_file.dequantize import dequantized
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.token_rows import TokenRows
from gguf_embed.types import FloatMatrix, Pooling
from tests.convert.encoders import tiny_models
from tests.gguf_models import CLS, SEP, TINY_VOCABULARY, write_tiny_encoder

FILE_TYPES = {
    "Q2_K": "MOSTLY_Q2_K",
    "Q3_K": "MOSTLY_Q3_K_M",
    "Q4_K": "MOSTLY_Q4_K_M",
    "Q5_K": "MOSTLY_Q5_K_M",
    "Q6_K": "MOSTLY_Q6_K",
}
"""llama.cpp's names of files by the type of their matrices."""

N_EMBD, N_FF = 256, 512  # k-quants come in blocks of 256
TEXTS = [[CLS, *np.random.default_rng(n).integers(5, len(TINY_VOCABULARY), n).tolist(), SEP] for n in range(1, 60, 7)]
"""Token ids, of 3 to 59 tokens."""


def convert(source: Path, output: Path, file_type: str) -> Path:
    """A copy of a file with all of its matrices in one type, written by llama.cpp."""
    api.start_backend()
    params = api.llama.llama_model_quantize_default_params()
    params.ftype = getattr(api.llama, f"LLAMA_FTYPE_{file_type}")
    params.pure, params.allow_requantize, params.nthread = True, True, 1
    code = api.llama.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(params))
    assert code == 0
    return output


@dataclass(frozen=True)
class Files:
    """The same weights twice."""

    quantized: Path
    floats: Path  # as F32, which llama.cpp has read from the quantized file


@pytest.fixture(scope="session")
def k_quants(tmp_path_factory) -> Mapping[str, Files]:
    """A random encoder in each type."""
    folder = tmp_path_factory.mktemp("k_quants")
    source = write_tiny_encoder(folder / "f32.gguf", n_embd=N_EMBD, n_ff=N_FF)

    def written(kind: str) -> Files:
        quantized = convert(source, folder / f"{kind}.gguf", FILE_TYPES[kind])
        return Files(quantized, convert(quantized, folder / f"{kind}-f32.gguf", "ALL_F32"))

    return {kind: written(kind) for kind in FILE_TYPES}


@pytest.fixture(params=FILE_TYPES)
def kind(request) -> str:
    return request.param


def by_llama(path: Path) -> FloatMatrix:
    """float32[texts, N_EMBD]."""
    with closing(tiny_models.open_engine(path)) as engine:
        return tiny_models.rows(engine, TEXTS, Pooling.MEAN)


def by_openvino(path: Path) -> FloatMatrix:
    pytest.importorskip("openvino", reason="OpenVINO has no package for this system")
    from tests.engines.openvino.running import open_graph

    with open_graph(path, Pooling.MEAN) as graph:
        return graph.rows(TEXTS)


def test_the_files_are_what_they_are_called(k_quants, kind):
    names = ("token_embd.weight", "blk.1.attn_q.weight", "blk.1.ffn_down.weight")
    for path, expected in ((k_quants[kind].quantized, kind), (k_quants[kind].floats, "F32")):
        tensors = read_header(path).tensors
        assert {tensors[name].type for name in names} == {expected}


def test_rows_of_the_token_table_are_those_of_gguf_and_of_llama_cpp(k_quants, kind):
    (stored,) = (one for one in gguf.GGUFReader(k_quants[kind].quantized).tensors if one.name == "token_embd.weight")
    ids = np.array([0, len(TINY_VOCABULARY) - 1, 7, 7])
    rows = TokenRows(read_header(k_quants[kind].quantized)).take(ids)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, gguf.quants.dequantize(stored.data, stored.tensor_type)[ids])
    np.testing.assert_allclose(rows, TokenRows(read_header(k_quants[kind].floats)).take(ids), rtol=0, atol=1e-6)


def test_matrices_are_those_of_llama_cpp(k_quants, kind):
    quantized, floats = read_header(k_quants[kind].quantized), read_header(k_quants[kind].floats)
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight"):
        found, expected = (dequantized(header, header.tensors[name]) for header in (quantized, floats))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_openvino_computes_what_llama_cpp_computes_with_the_same_weights_as_f32(k_quants, kind):
    files = k_quants[kind]
    assert tiny_models.cosines(by_openvino(files.quantized), by_llama(files.floats)).min() >= 0.9999


def test_between_the_engines_is_only_what_llama_cpp_loses_by_rounding_rows_to_8_bits(k_quants, kind):
    """It multiplies quantized matrices by rows that it rounds, block by block."""
    files = k_quants[kind]
    rounded = by_llama(files.quantized)
    loss, difference = (
        float(1 - tiny_models.cosines(rounded, exact).min())
        for exact in (by_llama(files.floats), by_openvino(files.quantized))
    )
    assert difference < 0.01
    assert difference == pytest.approx(loss, rel=0.05, abs=1e-5)
