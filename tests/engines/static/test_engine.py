"""The static engine gives the same vectors as the original packages, with every type of stored rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.convert.static import convert_static
from gguf_embed.engines.static import table as static_table
from gguf_embed.engines.static.engine import StaticEngine
from gguf_embed.errors import EngineFailure, InvalidRequest, ModelFileError, NotSupported
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import Pooling
from tests.engines.contexts import context_spec
from tests.static_models import write_static

DATA = Path(__file__).parents[2] / "data"
FURTHER = ("zzz \u4e2d", "  two\tspaces and\r\na line end ", "a cat and a dog sat on the red mat. " * 80)
TEXTS = [entry["text"] for entry in json.loads((DATA / "reference_texts.json").read_text("utf-8"))] + list(FURTHER)
REFERENCE = np.load(DATA / "static/reference.npz")
MODELS = ("model2vec", "model2vec_clustered", "static_embedding")


def open_converted(name: str, folder: Path, outtype: str = "f32") -> StaticEngine:
    path = folder / f"{name}-{outtype}.gguf"
    convert_static(DATA / "static" / name, path, outtype, report=lambda line: None)
    return StaticEngine(read_header(path))


def embed(engine: StaticEngine, batch: list[list[int]], pooling: Pooling = Pooling.MEAN) -> np.ndarray:
    context = engine.open_context(context_spec(pooling, 100_000, 1000))
    try:
        return context.embed(batch, 1).matrix
    finally:
        context.close()


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return (ours * theirs).sum(axis=1) / lengths


@pytest.mark.parametrize(
    ("outtype", "least"), [("f32", 0.999999), ("f16", 0.999999), ("bf16", 0.9999), ("q8_0", 0.9999)]
)
@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_the_models_own_package(name, outtype, least, tmp_path):
    engine = open_converted(name, tmp_path, outtype)
    ids = engine.codec.tokenize_batch(TEXTS)
    known = [index for index, tokens in enumerate(ids) if tokens]
    ours = embed(engine, [ids[index] for index in known])
    assert len(known) >= len(TEXTS) - 12
    assert cosines(ours, REFERENCE[name][known]).min() >= least
    unknown = sorted(set(range(len(TEXTS))) - set(known))
    assert not REFERENCE[name][unknown].any()  # the package answers zeros where we have no token


def test_rows_in_full_precision_give_the_packages_own_numbers(tmp_path):
    engine = open_converted("model2vec_clustered", tmp_path)
    ids = engine.codec.tokenize_batch(TEXTS)
    known = [index for index, tokens in enumerate(ids) if tokens]
    ours = embed(engine, [ids[index] for index in known])
    np.testing.assert_allclose(ours, REFERENCE["model2vec_clustered"][known], rtol=1e-5, atol=1e-6)


def test_token_rows_are_the_packages_sequence(tmp_path):
    engine = open_converted("model2vec", tmp_path)
    rows = embed(engine, engine.codec.tokenize_batch(TEXTS[:1]), Pooling.NONE)
    np.testing.assert_array_equal(rows, REFERENCE["rows_model2vec"])


def test_a_long_text_is_read_to_its_end_where_the_package_cuts_it(tmp_path):
    engine = open_converted("model2vec", tmp_path)
    median = int(np.median([len(entry) for entry in engine.codec.vocabulary().entries]))
    cut = engine.codec.tokenize_batch([TEXTS[-1][: 512 * median]])[0][:512]  # the package's rule for max_length=512
    whole = engine.codec.tokenize_batch([TEXTS[-1]])[0]
    assert len(whole) > 512 >= len(cut)
    ours = embed(engine, [cut, whole])
    assert cosines(ours, np.stack([REFERENCE["model2vec_cut"], REFERENCE["model2vec"][-1]])).min() > 0.999999


@pytest.mark.parametrize("outtype", ["f16", "bf16", "q8_0"])
def test_large_tables_are_unpacked_row_by_row_to_the_same_numbers(outtype, tmp_path, monkeypatch):
    unpacked = open_converted("model2vec", tmp_path, outtype)
    ids = unpacked.codec.tokenize_batch(TEXTS[:20])
    monkeypatch.setattr(static_table, "UNPACKED_BYTES", 0)
    by_row = open_converted("model2vec", tmp_path, outtype)
    np.testing.assert_array_equal(embed(by_row, ids), embed(unpacked, ids))


def test_a_text_longer_than_the_buffer_is_summed_in_parts(tmp_path, monkeypatch):
    engine = open_converted("model2vec", tmp_path)
    tokens = engine.codec.tokenize_batch([TEXTS[-1]])
    whole = embed(engine, tokens)
    monkeypatch.setattr("gguf_embed.engines.static.engine.BUFFER_BYTES", 4 * 32 * 7)  # seven rows
    np.testing.assert_allclose(embed(engine, tokens), whole, atol=1e-6)


def test_a_vector_does_not_depend_on_the_batch(tmp_path):
    engine = open_converted("model2vec_clustered", tmp_path)
    ids = [tokens for tokens in engine.codec.tokenize_batch(TEXTS) if tokens]
    together = embed(engine, ids)
    alone = np.concatenate([embed(engine, [tokens]) for tokens in ids])
    np.testing.assert_array_equal(together, alone)


@pytest.fixture
def tiny(tmp_path):
    """Rows 1 0, 0 1, -1 0 for the words a, b, c."""
    rows = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    return StaticEngine(read_header(write_static(tmp_path / "tiny.gguf", ("a", "b", "c"), rows)))


@pytest.mark.parametrize("batch", [[], [[]], [[0], []], [[3]], [[-1]], [[0]] * 1001, [[0] * 100_001]])
def test_batches_that_do_not_fit_are_refused(tiny, batch):
    with pytest.raises(EngineFailure):
        embed(tiny, batch)


def test_a_mean_of_zero_is_an_error_and_no_vector(tiny):
    with pytest.raises(InvalidRequest, match="add up to zero"):
        embed(tiny, [[1], [0, 2]])


@pytest.mark.parametrize("pooling", [Pooling.CLS, Pooling.LAST, Pooling.RANK])
def test_poolings_without_meaning_are_refused(tiny, pooling):
    with pytest.raises(NotSupported, match=f"pooling {pooling}"):
        tiny.open_context(context_spec(pooling, 10, 1))


def test_an_id_outside_the_vocabulary_is_refused(tiny):
    for read in (tiny.codec.token_bytes, lambda token: tiny.codec.detokenize([token])):
        assert read(1)
        for token in (-1, 3):
            with pytest.raises(InvalidRequest, match="vocabulary of 3"):
                read(token)


def test_a_closed_engine_or_context_refuses_work(tiny):
    context = tiny.open_context(context_spec(Pooling.MEAN, 10, 1))
    for _ in range(2):
        context.close()
    tiny.close()
    with pytest.raises(EngineFailure, match="closed"):
        context.embed([[0]], 1)
    with pytest.raises(EngineFailure, match="closed"):
        tiny.open_context(context_spec(Pooling.MEAN, 10, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.zeros((3,), np.float32)}, "token_embd.weight has shape"),
        ({"tokens": ("a", "b")}, "2 words and 3 rows"),
        ({"weights": np.ones(2, np.float32)}, "2 values for 3 tokens"),
        ({"mapping": np.array([0, 1, 3], np.int32)}, r"token_mapping .*outside .*\b3\b"),
        ({"mapping": np.array([0, -1, 1], np.int32)}, r"token_mapping .*outside .*\b3\b"),
        ({"weights": np.ones(3, np.int32)}, "token_weight is I32, expected F32"),
        ({"rows": np.ones((3, 2), np.int8)}, "its rows are I8"),
        ({"tokenizer": "gpt2"}, "tokenizer 'gpt2' is unknown"),
        ({"tokenizer": "huggingface"}, "tokenizer.huggingface.json is missing"),
        ({"tokenizer": "huggingface", "tokenizer_json": "{}"}, "tokenizer.json cannot be read"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path, change, message):
    facts = {"tokens": ("a", "b", "c"), "rows": np.ones((3, 2), np.float32)} | change
    path = write_static(tmp_path / "odd.gguf", **facts)
    with pytest.raises(ModelFileError, match=message) as caught:
        StaticEngine(read_header(path))
    assert "odd.gguf" in str(caught.value)


def test_quantized_rows_of_broken_blocks_are_refused(tmp_path):
    header = read_header(write_static(tmp_path / "odd.gguf", ("a", "b"), np.ones((2, 16), np.float32)))
    tensor = replace(header.tensors["token_embd.weight"], type="Q8_0")
    with pytest.raises(ModelFileError, match="Q8_0 rows of 16 numbers"):
        StaticEngine(replace(header, tensors={tensor.name: tensor}))


def test_a_file_without_rows_is_refused(tmp_path):
    path = write_static(tmp_path / "odd.gguf", ("a",), np.ones((1, 2), np.float32), table="other.weight")
    with pytest.raises(ModelFileError, match=r"token_embd\.weight is missing"):
        StaticEngine(read_header(path))
