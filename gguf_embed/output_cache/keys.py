"""Keys of cached outputs: digests of everything that an output's bytes depend on."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

from gguf_embed.types import OutputSpec

KEY_BYTES = 24
"""Two texts with the same key would get the same vector. Finding such a pair takes about 2^96 attempts."""


def text_keys(model: str, scope: str, output: OutputSpec, texts: Sequence[Sequence[int]]) -> list[bytes]:
    """A key for each token sequence.

    `model` stands for the file's content and how it is computed, see `model_key`; entries of one `scope` are never
    found in another.
    """
    facts = repr((model, scope, output)).encode()
    start = blake2b(facts, digest_size=KEY_BYTES)
    keys: list[bytes] = []
    for tokens in texts:
        digest = start.copy()
        digest.update(array("q", tokens))
        keys.append(digest.digest())
    return keys
