"""A new engine is a driver: with one registered, `--engine` and `Embedder` take its name, and it runs models.

Nothing else knows of it, and it is written here in under 100 lines. `registered` stands for its entry in `select.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.cli.configure import model_config
from gguf_embed.cli.options import ServeFlags
from gguf_embed.cli.serve import serve
from gguf_embed.config import ModelConfig
from gguf_embed.embedder.embedder import Embedder
from gguf_embed.engines.base import BatchLimits, ExecutionPlan, LoadedEngine, LoadSpec
from gguf_embed.engines.fake import FakeEngine, FakeScript, fake_plan, token_rows
from gguf_embed.engines.select import registered, select_driver
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.header import GgufHeader, read_header
from tests.running import running

LIMITS = BatchLimits(max_tokens=24, max_sequences=4, is_padded=True)
ENGINES: list[FakeEngine] = []


class ToyDriver:
    """Runs BERT on the fake engine, which pads."""

    name = "toy"

    def refusal(self, header: GgufHeader, config: ModelConfig) -> str | None:
        return None if header.architecture == "bert" else "it is not BERT"

    def supports_gpu(self) -> bool:
        return False

    def memory_bytes(self, header: GgufHeader, config: ModelConfig) -> int:
        return 2 * header.size_bytes

    def load(self, spec: LoadSpec) -> LoadedEngine:
        engine = FakeEngine(FakeScript(n_embd=32))
        ENGINES.append(engine)
        spec.report(f"{spec.header.path.name} runs as a toy")
        return LoadedEngine(engine, engine.codec, "TOY")

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> ExecutionPlan:
        return replace(fake_plan(LIMITS, n_workers=1), kernels="toy", details=("no attention",))


@pytest.fixture
def toy() -> Iterator[None]:
    ENGINES.clear()
    with registered("toy", ToyDriver, frozenset({"bert"})):
        yield


def mean_of(text: str) -> np.ndarray:
    mean = token_rows([256, *text.encode(), 257], 32).mean(axis=0)  # the fake's own tokens
    return mean / np.linalg.norm(mean)


def served(*flags: str) -> ModelConfig:
    """The settings of `gguf-embed serve` with these flags."""
    return model_config(ServeFlags(**serve.make_context("serve", list(flags)).params), False, print)


@pytest.mark.parametrize("flags", [(), ("--engine", "toy")])
def test_a_model_is_served_by_a_new_engine(toy, models, tmp_path, flags):
    with running(models / "encoder.gguf", served(*flags), tmp_path) as service:
        result = service.embed("ab", "abcdefgh", "c")
        (loaded,) = service.service.loaded()
    np.testing.assert_allclose(result.output.matrix[1], mean_of("abcdefgh"), rtol=1e-5)
    assert (result.model.weights_type, result.model.n_embd) == ("TOY", 32)
    assert (loaded.scheduler.plan.kernels, loaded.scheduler.plan.details) == ("toy", ("no attention",))
    batches = [batch.texts for batch in ENGINES[0].batches]
    assert all(len(texts) * max(map(len, texts)) <= LIMITS.max_tokens for texts in batches)


def test_an_engine_is_asked_for_its_architectures_and_may_refuse(toy, models):
    bert, other = read_header(models / "encoder.gguf"), read_header(models / "decoder.gguf")
    assert select_driver(bert, ModelConfig()).name == "toy"
    assert select_driver(other, ModelConfig()).name == "openvino"
    assert select_driver(bert, served("--engine", "llama")).name == "llama"
    with pytest.raises(ModelFileError, match=r"decoder\.gguf.*'toy'"):
        select_driver(other, served("--engine", "toy"))


def test_it_can_be_asked_for_in_python(toy, models, tmp_path):
    with Embedder(models / "encoder.gguf", engine="toy", cache=tmp_path) as model:
        np.testing.assert_allclose(model.embed("ab"), mean_of("ab"), rtol=1e-5)


def test_this_file_is_short():
    assert len(Path(__file__).read_text("utf-8").splitlines()) < 100
