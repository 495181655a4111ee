"""Which context of llama.cpp runs which batch."""

from __future__ import annotations

import pytest

from gguf_embed.engines.llama.context import FlashContexts, LlamaContextSpec
from gguf_embed.types import OutputSpec, Pooling

MEAN, TOKEN_ROWS = OutputSpec.of(Pooling.MEAN), OutputSpec.of(Pooling.NONE)
PLANNER = FlashContexts(max_tokens=16, max_sequences=8, long_tokens=64, flash_min_tokens=8)


@pytest.mark.parametrize(
    ("output", "n_tokens", "long", "spec"),
    [
        (MEAN, 7, False, LlamaContextSpec(MEAN, 8, 8, False)),  # no larger than needed
        (MEAN, 8, False, LlamaContextSpec(MEAN, 16, 8, True)),
        (TOKEN_ROWS, 60, True, LlamaContextSpec(TOKEN_ROWS, 64, 1, True)),
    ],
)
def test_the_planner_names_the_context_for_a_batch(output, n_tokens, long, spec):
    assert PLANNER.spec(output, n_tokens, long=long) == spec


def test_flash_attention_can_be_ruled_out():
    planner = FlashContexts(16, 8, 64, flash_min_tokens=None)
    assert not planner.spec(MEAN, 16, long=False).flash_attention
