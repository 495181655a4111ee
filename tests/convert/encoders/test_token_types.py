"""A BERT cross-encoder with token types: its file contains everything needed for the original's scores.

llama.cpp adds the first token type to every token. Fed with token embeddings instead of ids, to which the difference
of the two types is added where the second text begins, it gives the original's scores.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
import pytest

from gguf_embed.convert.convert import convert_directory
from tests.convert.encoders import tiny_models as tiny

RANK = 4
SEP = 3


@pytest.fixture
def path(tmp_path) -> Path:
    source = tiny.write_directory("bert_reranker", tmp_path / "hf")
    convert_directory(source, tmp_path / "m.gguf", "f32", report=lambda line: None)
    return tmp_path / "m.gguf"


@pytest.fixture
def context(path) -> Iterator[object]:
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.embeddings, params.pooling_type, params.n_threads, params.n_threads_batch = True, RANK, 1, 1
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    opened = llama_cpp.llama_init_from_model(model, params)
    yield opened
    llama_cpp.llama_free(opened)
    llama_cpp.llama_model_free(model)


def score_of_rows(context: object, rows: tiny.Array) -> float:
    batch = llama_cpp.llama_batch_init(len(rows), rows.shape[1], 1)
    try:
        batch.n_tokens = len(rows)
        ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
        for i in range(len(rows)):
            batch.pos[i], batch.n_seq_id[i], batch.logits[i] = i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_encode(context, batch) == 0
        return float(llama_cpp.llama_get_embeddings_seq(context, 0)[0])
    finally:
        llama_cpp.llama_batch_free(batch)


def test_the_originals_scores_can_be_had_from_the_file(path, context):
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    first, second = tensors["token_types.weight"]
    stored = tiny.reference("bert_reranker")
    for ids, expected in zip(tiny.ids_of(stored), stored["logits"][:, 0], strict=True):
        is_second = np.arange(len(ids)) > ids.index(SEP)
        rows = tensors["token_embd.weight"][ids] + np.outer(is_second, second - first)
        assert score_of_rows(context, np.ascontiguousarray(rows, np.float32)) == pytest.approx(expected, abs=1e-3)
