"""Digests of a model's files: of all of their content, and one that does not read all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gguf_embed.gguf_file.header import GgufHeader


def header_digest(parts: Sequence[GgufHeader]) -> str:
    """The sha256, as 64 hexadecimal digits, of the header and the size of every part.

    The header contains vocabulary, metadata and the list of tensors, but no weights: two files that differ only in
    their weights (a model and its fine-tuned version, converted by the same program) have the same digest. It is used
    where the sha256 of the file is not known, to detect changes and to give clients an id.
    """
    digest = hashlib.sha256()
    for header in parts:
        with header.path.open("rb") as file:
            digest.update(file.read(header.data_start))
        digest.update(header.size_bytes.to_bytes(8, "little"))
    return digest.hexdigest()


def content_digest(parts: Sequence[Path]) -> str:
    """The BLAKE2b, as 64 hexadecimal digits, of everything in these files. Takes about a second per GB."""
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        with part.open("rb") as file:
            digest.update(hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=32)).digest())
    return digest.hexdigest()
