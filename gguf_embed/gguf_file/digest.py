"""A name for a file's content that does not cost reading gigabytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gguf_embed.gguf_file.header import GgufHeader


def header_digest(parts: Sequence[GgufHeader]) -> str:
    """sha256, 64 hexadecimal digits, over the header and the size of every part.

    The header holds vocabulary, metadata and the list of tensors, but no weights: two files that differ in weights
    alone (the same model fine-tuned, converted by the same program) have the same digest. It serves where the true
    sha256 is not known, to see that a file has changed and to give clients an id.
    """
    digest = hashlib.sha256()
    for header in parts:
        with header.path.open("rb") as file:
            digest.update(file.read(header.data_start))
        digest.update(header.size_bytes.to_bytes(8, "little"))
    return digest.hexdigest()
