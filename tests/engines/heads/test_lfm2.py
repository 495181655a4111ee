"""LFM2-ColBERT: the original's multi-vectors, converted from its files, and from a GGUF of llama.cpp's converter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.convert.convert import convert_directory
from gguf_embed.doctor.examine import examine
from gguf_embed.errors import InvalidRequest, ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.gguf_file.token_heads import LateInteraction, read_token_heads
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel, load_model
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.service.compare import maxsim, rank_by_maxsim
from gguf_embed.service.embed_plan import plan_embed
from gguf_embed.service.embed_result import assemble
from gguf_embed.service.pipeline import Pipeline, ServedModel
from gguf_embed.types import MULTIVECTOR, EmbedRequest, EmbedResult, OutputSpec, PromptChoice, RerankRequest
from gguf_embed.vectors import Rows
from tests.convert.tokenizers.references import TEXTS, reference_tokenizers
from tests.lfm2_models import DATA, DECODER, ENCODER, N_DIMS, TOKENIZER, as_llama_cpp_writes_it, write_lfm2

QUERIES = ("what does the fox do?", "hello")
DOCUMENTS = (*tuple(TEXTS.values())[:16], "a long document, word by word. " * 100)


def convert(folder: Path, architecture: str) -> Path:
    write_lfm2(folder / "model", architecture, reference_tokenizers()[TOKENIZER])
    convert_directory(folder / "model", folder / "converted.gguf", "f32", report=lambda line: None)
    return folder / "converted.gguf"


@contextmanager
def opened(path: Path) -> Iterator[LoadedModel]:
    config = ModelConfig(warmup=False, truncate=True)
    config = replace(config, compute=replace(config.compute, precision="f32"))
    model = load_model(LocatedModel(path, "m"), config, path.parent / "cache", Metrics(), lambda line: None)
    with closing(model):
        yield model


async def embed_with(model: LoadedModel, request: EmbedRequest) -> EmbedResult:
    with closing(Pipeline(Metrics())) as pipeline:
        plan = plan_embed(ServedModel(model, model.info), request)
        return assemble(plan, await pipeline.run(plan, 0.0))


def embed(model: LoadedModel, texts: Sequence[str], role: str) -> Rows:
    request = EmbedRequest(tuple(texts), output=OutputSpec(MULTIVECTOR), prompt=PromptChoice(role))
    found = asyncio.run(embed_with(model, request)).output
    assert isinstance(found, Rows)
    return found


def check(found: Rows, rows: np.ndarray, counts: np.ndarray) -> None:
    ends = np.cumsum(counts)
    for index, text in enumerate(found.texts()):
        own = rows[ends[index] - counts[index] : ends[index]]
        assert text.shape == own.shape, index
        assert (text * own).sum(axis=1).min() > 0.9999, index


@pytest.mark.parametrize("made_by", ["converted", "llama.cpp"])
@pytest.mark.parametrize("architecture", [DECODER, ENCODER])
def test_multivectors_are_the_originals(tmp_path, architecture, made_by):
    path = convert(tmp_path, architecture)
    if made_by == "llama.cpp":
        path = as_llama_cpp_writes_it(path, tmp_path / "llama.gguf")
    with np.load(DATA / "reference.npz") as arrays:
        stored = {key.removeprefix(f"{architecture}."): arrays[key] for key in arrays if key.startswith(architecture)}
    with opened(path) as model:
        assert model.info.engine == "llama"
        check(embed(model, DOCUMENTS, "document"), stored["documents"], stored["n_documents"])
        check(embed(model, QUERIES, "query"), stored["queries"], stored["n_queries"])
        one_by_one = [embed(model, [text], "document").matrix for text in DOCUMENTS]
        check(embed(model, DOCUMENTS, "document"), np.concatenate(one_by_one), stored["n_documents"])


def test_it_reranks_by_maxsim(tmp_path):
    with opened(as_llama_cpp_writes_it(convert(tmp_path, ENCODER), tmp_path / "llama.gguf")) as model:
        assert model.info.reranks
        served = ServedModel(model, model.info)
        request = RerankRequest(QUERIES[0], DOCUMENTS[:4], truncate=True)
        found = asyncio.run(rank_by_maxsim(request, lambda part: embed_with(model, part), served))
        expected = maxsim(embed(model, QUERIES[:1], "query"), embed(model, DOCUMENTS[:4], "document"))
    assert found.score_kind == "maxsim"
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-5)


def late_of(path: Path) -> LateInteraction:
    heads = read_token_heads(read_header(path))
    assert heads is not None
    assert heads.late is not None
    return heads.late


def test_both_files_say_the_same_about_texts(tmp_path):
    converted = convert(tmp_path, ENCODER)
    own, theirs = late_of(converted), late_of(as_llama_cpp_writes_it(converted, tmp_path / "llama.gguf"))
    assert (own.n_dims, theirs.n_dims) == (N_DIMS, N_DIMS)
    assert own.projection is not None
    assert theirs.projection is None
    for late in (own, theirs):
        assert (late.query_length, late.document_length, late.expansion_token, len(late.skipped)) == (32, 512, None, 32)
    assert (own.query_prefix, own.document_prefix) == (theirs.query_prefix, theirs.document_prefix)
    assert own.skipped == theirs.skipped


def test_neither_file_has_anything_to_complain_about(tmp_path):
    converted = convert(tmp_path, ENCODER)
    for path in (converted, as_llama_cpp_writes_it(converted, tmp_path / "llama.gguf")):
        assert [finding.code for finding in examine(path).findings] == []


def test_a_query_over_32_tokens_is_refused_by_rerank(tmp_path):
    with opened(convert(tmp_path, ENCODER)) as model:
        served = ServedModel(model, model.info)
        request = RerankRequest("Größe und Farbe " * 20, DOCUMENTS[:4], truncate=True)
        with pytest.raises(InvalidRequest, match="queries are never cut"):
            asyncio.run(rank_by_maxsim(request, lambda part: embed_with(model, part), served))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["conv"] * 5}, "expected layer_types with 5 layers, some conv and some full_attention"),
        ({"conv_bias": True}, "conv_bias True cannot be converted"),
        ({"num_hidden_layers": 4, "layer_types": ["conv", "full_attention"] * 2}, "is unknown for this architecture"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(tmp_path, change, message):
    source = write_lfm2(tmp_path / "m", ENCODER, reference_tokenizers()[TOKENIZER], **change)
    with pytest.raises(ModelFileError, match=message):
        convert_directory(source, tmp_path / "m.gguf", "f32", report=lambda line: None)


def test_a_vocabulary_without_the_prefixes_is_an_error(tmp_path):
    path = as_llama_cpp_writes_it(convert(tmp_path, ENCODER), tmp_path / "llama.gguf")
    path.write_bytes(path.read_bytes().replace(b"[Q] ", b"[X] "))
    with pytest.raises(ModelFileError, match=r"its vocabulary has no tokens '\[Q\] ' and '\[D\] '"):
        late_of(path)


def test_older_configs_number_the_attending_layers(tmp_path):
    source = write_lfm2(
        tmp_path / "m", ENCODER, reference_tokenizers()[TOKENIZER], layer_types=None, full_attn_idxs=[1, 4]
    )
    convert_directory(source, tmp_path / "m.gguf", "f32", report=lambda line: None)
    assert json.loads((source / "config.json").read_text("utf-8"))["layer_types"] is None
    assert {name for name in read_header(tmp_path / "m.gguf").tensors if "shortconv.conv" in name} == {
        f"blk.{layer}.shortconv.conv.weight" for layer in (0, 2, 3)
    }
