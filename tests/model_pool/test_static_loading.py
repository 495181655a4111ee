"""Static models behind the same scheduler: how they are set up, and what reaches a client who asks for too much."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.config import ComputeConfig, ModelConfig, OffloadConfig
from gguf_embed.convert.static import convert_static
from gguf_embed.engines.base import LoadSpec
from gguf_embed.engines.select import open_codec, select_driver
from gguf_embed.errors import InputTooLong, InvalidRequest, ModelFileError, NotSupported
from gguf_embed.gguf_file.header import read_header
from gguf_embed.preprocessing.tokens import prepare
from gguf_embed.types import OutputSpec, Pooling
from tests.gguf_models import write_tiny_encoder
from tests.static_models import write_static

STATIC = Path(__file__).parent.parent / "data/static"
TWO = ComputeConfig(n_threads=2)


@pytest.fixture
def words(tmp_path) -> Path:
    return write_static(tmp_path / "words.gguf", ("a", "b", "c"), np.array([[1, 0], [0, 1], [-1, 0]], np.float32))


def answer(loaded, texts, pooling=Pooling.MEAN, **options):
    tokenized = prepare(texts, loaded.tokenizer, loaded.limits, truncate=options.get("truncate", False))
    submission = asyncio.run(loaded.scheduler.submit([text.tokens for text in tokenized], OutputSpec.of(pooling)))
    for error in submission.failures.values():
        raise error
    return [output.matrix for output in submission.outputs]


def test_nothing_is_measured_and_no_copy_is_made(load, tmp_path):
    convert_static(STATIC / "model2vec", tmp_path / "m.gguf", "f16", report=lambda line: None)
    config = ModelConfig(compute=dataclasses.replace(TWO, weights="bf16"))
    loaded, said = load(tmp_path / "m.gguf", config)
    assert (loaded.info.file_type, loaded.info.weights_type, loaded.info.tokenizer) == ("F16", "F16", "exact")
    plan = loaded.scheduler.plan
    assert (plan.kernels, plan.measured, plan.n_workers) == ("numpy", False, 1)
    assert (loaded.info.pooling, loaded.info.n_embd, loaded.info.max_input_tokens) == (Pooling.MEAN, 32, 65536)
    assert said == []
    assert not (tmp_path / "cache").exists()


def test_many_texts_share_batches_and_come_back_in_order(load, words):
    loaded, _ = load(words, ModelConfig(compute=TWO))
    texts = ["a", "a b", "b b b c"] * 3000
    rows = np.concatenate(answer(loaded, texts))
    np.testing.assert_allclose(rows, np.array([[1, 0], [0.5, 0.5], [-0.25, 0.75]] * 3000), atol=1e-7)


def test_token_vectors_can_be_requested(load, words):
    loaded, _ = load(words, ModelConfig(compute=TWO))
    assert [row.tolist() for row in answer(loaded, ["b a", "c"], Pooling.NONE)] == [[[0, 1], [1, 0]], [[-1, 0]]]


@pytest.mark.parametrize("unknown", ["zebra", "\u4e2d\u6587"])
def test_a_text_of_unknown_words_is_an_error_that_names_it(load, words, unknown):
    loaded, _ = load(words, ModelConfig(compute=TWO))
    with pytest.raises(InvalidRequest, match=r"^input 1 has no word"):
        answer(loaded, ["a", unknown])
    with pytest.raises(InvalidRequest, match="input 1 is empty"):
        answer(loaded, ["a", " \n"])


def test_a_mean_of_zero_fails_alone(load, words):
    loaded, _ = load(words, ModelConfig(compute=TWO))

    async def both():
        submit = loaded.scheduler.submit
        mean = OutputSpec.of(Pooling.MEAN)
        return await asyncio.gather(submit([[1]], mean), submit([[0, 2]], mean))

    good, bad = asyncio.run(both())
    assert good.outputs[0].matrix.tolist() == [[0, 1]]
    assert isinstance(bad.failures[0], InvalidRequest)


def test_a_limit_is_enforced_and_truncation_has_an_effect(load, words):
    loaded, _ = load(words, ModelConfig(n_ctx=4, compute=TWO))
    with pytest.raises(InputTooLong, match=r"^input 0 is too large \(5 tokens.*\b4\)$"):
        answer(loaded, ["a a a a b"])
    assert answer(loaded, ["a a a a b"], truncate=True)[0].tolist() == [[1, 0]]


def test_poolings_without_meaning_are_refused_at_the_start_and_by_request(load, words):
    for pooling in (Pooling.CLS, Pooling.LAST):
        with pytest.raises(ModelFileError, match=rf"words\.gguf .*pooling {pooling}\b"):
            load(words, ModelConfig(pooling=pooling, compute=TWO))
    loaded, _ = load(words, ModelConfig(compute=TWO))
    with pytest.raises(NotSupported, match="pooling cls"):
        answer(loaded, ["a"], Pooling.CLS)


def test_a_gpu_has_no_effect_and_this_is_reported(load, words):
    offload = dataclasses.replace(TWO, offload=OffloadConfig(n_gpu_layers=-1))
    _, said = load(words, ModelConfig(compute=offload))
    assert any("-ngl" in line for line in said)


def test_llama_cpps_tokenizer_cannot_be_chosen_for_static_models(load, words):
    loaded, _ = load(words, ModelConfig(tokenizer="llama", compute=TWO))
    assert loaded.info.tokenizer == "exact"
    assert loaded.tokenizer.encode("b a") == [1, 0]


def test_an_engine_is_chosen_by_the_files_architecture(words, tmp_path):
    bert = read_header(write_tiny_encoder(tmp_path / "bert.gguf"))
    for header, in_llama in ((read_header(words), False), (bert, True)):
        config = ModelConfig(compute=dataclasses.replace(TWO, engine="llama"))
        driver = select_driver(header, config)
        assert (driver.name == "llama") is in_llama
        spec = LoadSpec(header, config, OutputSpec.of(Pooling.MEAN), tmp_path, lambda line: None, open_codec)
        engine = driver.load(spec).engine
        assert engine.info.architecture == header.architecture
        engine.close()


@pytest.mark.parametrize("fits", [True, False])
def test_the_operator_is_told_which_file_is_mapped_and_why(words, tmp_path, monkeypatch, fits):
    for module in ("llama.driver", "static.driver", "static.table"):
        monkeypatch.setattr(f"gguf_embed.engines.{module}.fits_in_memory", lambda n_bytes: fits)
    bert = write_tiny_encoder(tmp_path / "bert.gguf")
    for path in (words, bert):
        said: list[str] = []
        header = read_header(path)
        config = ModelConfig(compute=dataclasses.replace(TWO, engine="llama", weights="file"))
        spec = LoadSpec(header, config, OutputSpec.of(Pooling.MEAN), tmp_path, said.append, open_codec)
        select_driver(header, config).load(spec).engine.close()
        told = [line for line in said if line.startswith(f"{path.name} is mapped, not read, because it takes more")]
        assert len(told) == (0 if fits else 1)
