"""Fields of vLLM's and Infinity's clients, read as `input`."""

from __future__ import annotations

import pytest

from gguf_embed.server.fields.media_forms import with_content_parts


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ({"input": "a", "modality": "text", "dimensions": 0}, {"input": "a"}),
        ({"input": "a", "modality": "text", "dimensions": 0.0}, {"input": "a"}),
        ({"input": "a", "modality": "text", "dimensions": 3}, {"input": "a", "dimensions": 3}),
        ({"input": "a", "modality": "text", "dimensions": False}, {"input": "a", "dimensions": False}),
        ({"input": "a", "modality": None, "dimensions": 0}, {"input": "a", "dimensions": 0}),
        ({"input": "a", "dimensions": 0}, {"input": "a", "dimensions": 0}),
    ],
)
def test_infinitys_client_sends_zero_for_all_dimensions(sent, read):
    assert with_content_parts(sent) == read
