"""Batches of all architectures after an idle worker has freed what it does not need."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from gguf_embed.engines.base import ContextSpec
from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.driver import open_codec
from gguf_embed.engines.openvino.runtime import computes_bf16
from gguf_embed.types import OutputSpec
from tests.engines.openvino.graph_models import MODELS, RUNNABLE, reference, write_gguf
from tests.engines.openvino.running import load_spec

ONE_PER_ARCHITECTURE = {MODELS[name].architecture: name for name in reversed(RUNNABLE)}.values()

needs_bf16 = pytest.mark.skipif(not computes_bf16(), reason="this CPU has no BF16 instructions")


@pytest.mark.parametrize("precision", ["f32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("name", ONE_PER_ARCHITECTURE)
def test_vectors_are_the_same_after_buffers_were_freed(tmp_path, name, precision):
    """Also those of texts as long as the last ones, for which OpenVINO prepares nothing anew."""
    stored = reference(name)
    spec = load_spec(write_gguf(name, tmp_path / "m.gguf", "f32"), stored.pooling)
    longest = max(stored.ids, key=len)
    batches = [[longest[:9]], [longest], [longest, longest[:9]], [longest[:17]] * 3]
    with closing(ModelBuilder(spec, open_codec(spec).codec).compile(precision, 2)) as engine:
        context = engine.open_context(ContextSpec(OutputSpec.of(stored.pooling), 1000, 8))
        expected = [context.embed(batch, 1).matrix for batch in batches]
        for number in np.random.default_rng(1).integers(0, len(batches), 20):
            context.release_buffers()
            for again in (number, number, 1):
                np.testing.assert_array_equal(context.embed(batches[again], 1).matrix, expected[again])
        context.close()
