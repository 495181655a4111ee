"""Heads give what sentence-transformers gives, from the original's files to vectors, with both engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.service.embed_plan import plan_embed
from gguf_embed.service.embed_result import assemble
from gguf_embed.service.pipeline import Pipeline, ServedModel
from gguf_embed.types import JOINT, MULTIVECTOR, SPARSE, EmbedRequest, Output, OutputSpec, Pooling, PromptChoice
from gguf_embed.vectors import Rows
from gguf_embed.vectors.joint import JointOutput
from gguf_embed.vectors.sparse import SparseRows
from tests.data.head_directories import DATA, write_directory

QUERIES = ("what does the fox do?", "hello", "Größe und Farbe, and the texts of all books about vectors")
TEXTS: list[str] = json.loads((DATA / "convert" / "texts.json").read_text("utf-8"))["texts"]
CODE = 10  # llama.cpp's tokenizer for XLM-RoBERTa reads line breaks otherwise than the original
COLBERT = sorted(path.name for path in (DATA / "heads").glob("colbert*"))
EXPANDED = set(COLBERT) - {"colbert_attended", "colbert_modern"}
SPLADE = sorted(path.name for path in (DATA / "heads").glob("splade*"))
MOST_OFF = {"openvino": 1e-4, "llama": 3e-3}  # of sparse weights up to 3; llama.cpp computes GELU's tanh form

Embed = Callable[[tuple[str, ...], OutputSpec, str], Output]


@contextmanager
def opened(name: str, engine: str, folder: Path) -> Iterator[tuple[Embed, list[str]]]:
    """Embeds texts with the converted model; and what loading it reported."""
    convert_directory(write_directory(name, folder / "model"), folder / "m.gguf", "f32", report=lambda line: None)
    config = ModelConfig(warmup=False, truncate=True)
    config = replace(config, compute=replace(config.compute, engine=engine, precision="f32"))
    said: list[str] = []
    model = load_model(LocatedModel(folder / "m.gguf", "m"), config, folder / "cache", Metrics(), said.append)

    async def embed(texts: tuple[str, ...], output: OutputSpec, role: str) -> Output:
        with closing(Pipeline(Metrics())) as pipeline:
            plan = plan_embed(
                ServedModel(model, model.info), EmbedRequest(texts, output=output, prompt=PromptChoice(role))
            )
            return assemble(plan, await pipeline.run(plan, 0.0)).output

    with closing(model):
        yield lambda texts, output, role: asyncio.run(embed(texts, output, role)), said


def reference(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / "heads" / name / "reference.npz") as stored:
        return dict(stored)


def check_rows(found: Output, rows: np.ndarray, counts: np.ndarray, left_out: int | None = None) -> None:
    assert isinstance(found, Rows)
    ends = np.cumsum(counts)
    for index, (begin, end) in enumerate(zip(ends - counts, ends, strict=True)):
        if index != left_out:
            own = found.part(index).matrix
            assert own.shape == rows[begin:end].shape, index
            assert (own * rows[begin:end]).sum(axis=1).min() > 0.9999, index


@pytest.mark.parametrize("engine", ["openvino", "llama"])
@pytest.mark.parametrize("name", COLBERT)
def test_multivectors_are_the_originals(tmp_path, name, engine):
    stored = reference(name)
    code = CODE if name == "colbert_xlm_roberta" else None
    with opened(name, engine, tmp_path) as (embed, said):
        documents = embed(tuple(TEXTS), OutputSpec(MULTIVECTOR), "document")
        check_rows(documents, stored["documents"], stored["n_documents"], code)
        if engine == "llama" and name in EXPANDED:
            assert any("queries are not filled up with mask tokens" in line for line in said)
            return
        assert said == []
        check_rows(embed(QUERIES, OutputSpec(MULTIVECTOR), "query"), stored["queries"], stored["n_queries"])


@pytest.mark.parametrize("engine", ["openvino", "llama"])
@pytest.mark.parametrize("name", SPLADE)
def test_sparse_vectors_are_the_originals(tmp_path, name, engine):
    expected = reference(name)["documents"]
    with opened(name, engine, tmp_path) as (embed, _):
        found = embed(tuple(TEXTS), OutputSpec(SPARSE), "document")
    np.testing.assert_allclose(as_dense(found, expected.shape[1]), expected, rtol=0, atol=MOST_OFF[engine])


@pytest.mark.parametrize("engine", ["openvino", "llama"])
def test_three_kinds_in_one_pass(tmp_path, engine):
    stored = reference("bge_m3")
    kept = np.arange(len(TEXTS)) != CODE
    with opened("bge_m3", engine, tmp_path) as (embed, _):
        spec = OutputSpec(JOINT, Pooling.CLS, parts=("dense", "sparse", "multivector"))
        found = embed(tuple(TEXTS), spec, "document")
    assert isinstance(found, JointOutput)
    dense = found.by_kind["dense"]
    assert isinstance(dense, Rows)
    assert (dense.matrix * stored["dense"]).sum(axis=1)[kept].min() > 0.9999
    sparse = as_dense(found.by_kind["sparse"], stored["sparse"].shape[1])
    np.testing.assert_allclose(sparse[kept], stored["sparse"][kept], rtol=0, atol=MOST_OFF[engine])
    check_rows(found.by_kind["multivector"], stored["documents"], stored["n_documents"], CODE)


def as_dense(found: Output, n_vocab: int) -> np.ndarray:
    assert isinstance(found, SparseRows)
    dense = np.zeros((len(found), n_vocab), np.float32)
    for row, number in zip(dense, range(len(found)), strict=True):
        indices, weights = found.text(number)
        row[indices] = weights
    return dense
