"""The ways out that the shared fields of embedding routes offer, for the dialects that accept these fields."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_embed.errors import WayOut
from gguf_embed.server.http.errors import WORDS

EMBED_FIELD_WORDS: Mapping[WayOut, str] = {
    **WORDS,
    WayOut.TRUNCATE: 'send "truncate": true to have it cut (or start the server with --truncate)',
    WayOut.AVERAGE: 'send "long_input": "chunk_mean" to get the average over its windows',
    WayOut.NO_AVERAGE: 'leave "long_input" out',
    WayOut.POOL: 'send "pooling": "mean", "cls" or "last" for one vector per text',
    WayOut.EMBED_OPTIONS: "send it to POST /v1/embeddings or POST /embedding",
}
"""`WORDS`, with those for `truncate`, `long_input`, `pooling` and the fields of `options`."""
