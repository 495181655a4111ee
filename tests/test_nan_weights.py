"""A file with a NaN or an infinity in one token's row: only texts with that token fail, on either engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import gguf
import numpy as np
import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.errors import EngineFailure
from gguf_embed.types import OutputSpec, Pooling, RerankRequest
from tests.gguf_models import TINY_VOCABULARY, write_tiny_encoder
from tests.running import Running, running

BROKEN = "dog"
GOOD = ["hello world", "the cat sat on the mat", "red", "hello"]
ENGINES = [
    "llama",
    pytest.param(
        "openvino", marks=pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="no OpenVINO here")
    ),
]


@pytest.fixture(scope="module", params=[np.nan, np.inf])
def number(request) -> float:
    return request.param


@pytest.fixture(scope="module", params=ENGINES)
def broken(request, number, tmp_path_factory) -> Iterator[Running]:
    """A reranker's file, served with pooling mean."""
    folder = tmp_path_factory.mktemp("nan")
    path = write_tiny_encoder(folder / "nan.gguf", pooling=Pooling.RANK, rank_head=True)
    [table] = [tensor for tensor in gguf.GGUFReader(path, "r+").tensors if tensor.name == "token_embd.weight"]
    table.data[TINY_VOCABULARY.index(BROKEN)][3] = number
    table.data.base.flush()
    compute = ComputeConfig(engine=request.param, weights="file", precision="f32")
    with running(path, ModelConfig(pooling=Pooling.MEAN, compute=compute), folder) as service:
        yield service


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.NONE, Pooling.RANK])
def test_only_the_texts_with_the_token_fail(broken, pooling):
    alone = [broken.embed(text, pooling=pooling).output.matrix for text in GOOD]
    inputs = [GOOD[0], f"the {BROKEN}", *GOOD[1:3], BROKEN, GOOD[3]]
    result = broken.embed(*inputs, pooling=pooling, on_error="skip")
    assert [failure.index for failure in result.failures] == [1, 4]
    assert {type(failure.error) for failure in result.failures} == {EngineFailure}
    assert "not finite" in result.failures[0].error.message
    np.testing.assert_allclose(result.output.matrix, np.concatenate(alone), atol=1e-5)


def test_without_skip_the_request_fails_for_the_first_of_them(broken):
    with pytest.raises(EngineFailure, match=r"^input 1: .*not finite"):
        broken.embed(GOOD[0], BROKEN, BROKEN)
    assert np.isfinite(broken.embed(*GOOD).output.matrix).all()


def test_a_document_with_the_token_is_named(broken):
    request = RerankRequest("hello", ("the cat", BROKEN), output=OutputSpec.of(Pooling.RANK))
    with pytest.raises(EngineFailure, match=r"^document 1: .*not finite"):
        broken.run(broken.service.rerank(request))
