"""llama.cpp ends the process over sizes it did not expect: every size that flags can lead to must open and run."""

from __future__ import annotations

from contextlib import closing

import pytest

from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.types import Pooling
from tests.engines.contexts import context_spec


@pytest.mark.parametrize("max_sequences", [1, 7, 64])
@pytest.mark.parametrize("max_tokens", [4, 63, 100, 126, 300])
@pytest.mark.parametrize("file", ["encoder.gguf", "decoder.gguf", "bare.gguf"])
def test_a_context_may_have_any_size(models, file, max_tokens, max_sequences):
    texts = [[1, 2, 3]] * min(max_sequences, max_tokens // 3)
    with closing(LlamaEngine(LlamaEngineConfig(models / file))) as engine:
        for pooling in (Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.NONE):
            for flash_attention in (False, True):
                spec = context_spec(pooling, max_tokens, max_sequences, flash_attention)
                with closing(engine.open_context(spec)) as context:
                    n_rows = sum(map(len, texts)) if pooling is Pooling.NONE else len(texts)
                    assert context.embed(texts, 1).matrix.shape == (n_rows, 32)
