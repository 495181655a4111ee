"""Token rows for pairs, read from GGUFs of several types, with the second text's token type."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from gguf_embed.errors import EngineFailure, ModelFileError
from gguf_embed.gguf_file import token_rows
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.token_rows import PairRows, TokenRows, has_token_types
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


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_a_large_table_is_read_row_by_row_with_the_same_result(tmp_path, kind, monkeypatch):
    write(tmp_path / "m.gguf", gguf.GGMLQuantizationType[kind])
    ids = np.array([0, 49, 7, 7, 23])
    kept = TokenRows(read_header(tmp_path / "m.gguf")).take(ids)
    monkeypatch.setattr(token_rows, "KEPT_BYTES", 0)
    np.testing.assert_array_equal(TokenRows(read_header(tmp_path / "m.gguf")).take(ids), kept)


@pytest.mark.parametrize("n_kept", [1, 20, 49])
def test_rows_of_a_large_table_are_read_once_as_far_as_they_are_kept(tmp_path, monkeypatch, n_kept):
    table, _ = write(tmp_path / "m.gguf", gguf.GGMLQuantizationType.F16)
    monkeypatch.setattr(token_rows, "KEPT_BYTES", n_kept * 2 * N_EMBD)
    rows = TokenRows(read_header(tmp_path / "m.gguf"))
    reads = []
    monkeypatch.setattr(token_rows.os, "pread", lambda *at, read=os.pread: reads.append(at) or read(*at))
    every = np.arange(N_TOKENS)
    n_reads = []
    for ids in (every[:10], every[:10], np.array([5, 5, 12, 5]), every, every):
        np.testing.assert_array_equal(rows.take(ids), table[ids])
        n_reads.append(len(reads))
        reads.clear()
    kept_early = min(n_kept - 1, 10)  # the table's first row was read when it was opened
    assert n_reads[:2] == [9, 9 - kept_early + (n_kept > 10)]
    assert n_reads[-1] == N_TOKENS - n_kept


def test_rows_of_a_large_table_are_the_same_for_many_threads(tmp_path, monkeypatch):
    table, _ = write(tmp_path / "m.gguf", gguf.GGMLQuantizationType.F16)
    monkeypatch.setattr(token_rows, "KEPT_BYTES", 20 * 2 * N_EMBD)
    rows = TokenRows(read_header(tmp_path / "m.gguf"))

    def take(seed: int) -> bool:
        random = np.random.default_rng(seed)
        batches = [random.integers(0, N_TOKENS, 30) for _ in range(100)]
        return all(np.array_equal(rows.take(ids), table[ids]) for ids in batches)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(take, range(16)))


@pytest.mark.parametrize("keeps_table", [True, False])
@pytest.mark.parametrize("change", ["cut", "rewritten"])
def test_a_file_that_is_overwritten_gives_its_old_rows_or_an_error(tmp_path, monkeypatch, keeps_table, change):
    path = tmp_path / "m.gguf"
    write(path, gguf.GGMLQuantizationType.F32)
    monkeypatch.setattr(token_rows, "KEPT_BYTES", 2**30 if keeps_table else 0)
    rows = TokenRows(read_header(path))
    before = rows.take(np.arange(N_TOKENS))
    time.sleep(0.02)  # more than the resolution of a file's time
    data = path.read_bytes()
    path.write_bytes(data[:100] if change == "cut" else data[::-1])
    if keeps_table:
        np.testing.assert_array_equal(rows.take(np.arange(N_TOKENS)), before)
    else:
        with pytest.raises(EngineFailure, match=r"m\.gguf was overwritten while the model was running"):
            rows.take(np.arange(N_TOKENS))


def test_a_file_that_was_replaced_gives_its_own_rows(tmp_path, monkeypatch):
    path = tmp_path / "m.gguf"
    write(path, gguf.GGMLQuantizationType.F32)
    monkeypatch.setattr(token_rows, "KEPT_BYTES", 0)
    rows = TokenRows(read_header(path))
    before = rows.take(np.arange(N_TOKENS))
    other = tmp_path / "other.gguf"
    other.write_bytes(path.read_bytes()[::-1])
    other.replace(path)
    np.testing.assert_array_equal(rows.take(np.arange(N_TOKENS)), before)
