"""Offload to a GPU: needs a build of llama-cpp-python with a GPU back end, and the GPU."""

from contextlib import closing

import numpy as np
import pytest

from gguf_embed.config import OffloadConfig
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.engines.select import supports_gpu
from gguf_embed.types import Pooling
from tests.engines.contexts import context_spec
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder

pytestmark = pytest.mark.skipif(not supports_gpu(), reason="this build of llama-cpp-python has no GPU to use")


@pytest.mark.parametrize(("write", "pooling"), [(write_tiny_encoder, Pooling.MEAN), (write_tiny_decoder, Pooling.LAST)])
def test_vectors_from_the_gpu_are_those_from_the_cpu(tmp_path, write, pooling):
    path = write(tmp_path / "model.gguf")
    rows = []
    for n_gpu_layers in (0, -1):
        config = LlamaEngineConfig(path, OffloadConfig(n_gpu_layers=n_gpu_layers))
        with closing(LlamaEngine(config)) as engine:
            context = engine.open_context(context_spec(pooling, 64, 4))
            rows.append(context.embed([[1, 5, 6, 2], [1, 7, 2]], 1).matrix)
            context.close()
    cpu, gpu = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True) for matrix in rows)
    assert (cpu * gpu).sum(axis=1).min() > 0.999
