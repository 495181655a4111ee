"""Text Embeddings Inference's API."""

from __future__ import annotations

from importlib.resources import files

from gguf_embed.server.context import Dialect, Route
from gguf_embed.server.dialects.tei.embed import REQUEST, SIMILARITY, embed, embed_all, root, similarity
from gguf_embed.server.dialects.tei.embed_sparse import SPARSE_REQUEST, embed_sparse
from gguf_embed.server.dialects.tei.errors import ERRORS
from gguf_embed.server.dialects.tei.info import info
from gguf_embed.server.dialects.tei.pairs import PAIRS
from gguf_embed.server.dialects.tei.predict import REQUEST as PREDICT
from gguf_embed.server.dialects.tei.predict import predict
from gguf_embed.server.dialects.tei.tokens import DECODE, decode

TEI = Dialect(
    name="TEI",
    routes=(
        Route("POST", "/embed", embed, "vectors, TEI's shape"),
        Route("POST", "/embed_all", embed_all, "one vector per token, TEI's shape"),
        Route("POST", "/embed_sparse", embed_sparse, "sparse vectors, TEI's shape"),
        Route("POST", "/similarity", similarity, "cosines between one sentence and others, or all pairs of texts"),
        Route("POST", "/predict", predict, "a classifier's labels, TEI's shape"),
        Route("POST", "/decode", decode, "token ids to text, TEI's shape"),
        Route("GET", "/info", info, "the model and its limits, TEI's shape"),
        Route("POST", "/", root, "/embed or /similarity, as TEI's clients send it"),
    ),
    errors=ERRORS,
    error_schema="TeiError",
    openapi=(files(__package__) / "openapi.toml",),
    bodies=(REQUEST, SPARSE_REQUEST, SIMILARITY, PAIRS, PREDICT, DECODE),
)
