"""Tests of manifests as text."""

from __future__ import annotations

import pytest

from gguf_embed.errors import ConfigError
from gguf_embed.ingest.sinks.manifest_json import from_json, to_json
from tests.ingest.sinks.sample_rows import MANIFEST


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (to_json(MANIFEST).replace('"format": 1', '"format": 2'), "newer gguf-embed.*format 2.*update gguf-embed"),
        (to_json(MANIFEST).replace('"pooling"', '"poolings"'), "newer gguf-embed.*key 'poolings'"),
        ('{"model": "x"}', "is damaged"),
        ("{", "is not JSON"),
        ("[]", "is list instead"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        from_json(text, "the table")


def test_a_manifest_is_one_line_of_ascii():
    text = to_json(MANIFEST)
    assert text.isascii()
    assert "\n" not in text
    assert from_json(text, "it") == MANIFEST
